"""The kinds of trouble that end a command or a trial with one clear line instead of a traceback."""

from __future__ import annotations


class StudyError(Exception):
    """The study, the command or the surroundings are wrong; the message names what and what to do.

    Commands print it as one line and end with exit status 2, before anything was started.
    """


class MissingFolderError(StudyError):
    """A folder or file that a study names is not there, so that what depends on its contents has no identity here."""


class DivergedError(Exception):
    """A training run produced a loss or a score that is not finite. Recorded as a failure, never as a score."""


class StorageError(OSError):
    """The storage failed for longer than `cluster.storage_patience_s`. What was written before is kept."""
