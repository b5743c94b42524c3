"""Errors that end a command or a trial with one clear line and no traceback."""

from __future__ import annotations


class StudyError(Exception):
    """The study, the command or the surroundings are wrong. The message names what is wrong and what to do.

    Commands print it as one line and end with exit status 2, before anything is started.
    """


class MissingFolderError(StudyError):
    """A folder or file that a study names is missing. What depends on its contents has no identity here."""


class DivergedError(Exception):
    """A training run produced a loss or a score that is not finite. Recorded as a failure, never as a score."""


class ClusterGoneError(Exception):
    """The Ray that a command works with has gone. What is done is kept, and the same command goes on."""


class StorageError(OSError):
    """The storage failed for longer than `cluster.storage_patience_s`. What was written before is kept."""
