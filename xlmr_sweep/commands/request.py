"""What a user asked for, and the study, storage and trials that it means. In: options. Out: an `OpenedRequest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlmr_sweep.commands.preparation import check_known_sizes
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.study_file import open_study
from xlmr_sweep.study.plan import Trial, expand, select
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import NO_ZERO_SHOT, Study


@dataclass(frozen=True)
class Request:
    """What a user asked for on the command line."""

    study: str
    storage: str | None = None
    models: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    paradigms: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    variants: tuple[str, ...] | None = None


@dataclass(frozen=True)
class OpenedRequest:
    """A request with its study and storage read."""

    study: Study
    """The study of the storage, with all sizes and seeds ever added and those of this command."""
    storage: Storage
    every: Sequence[Trial]
    """All trials of that study."""
    trials: Sequence[Trial]
    """The trials of this command."""


def open_request(request: Request, before: OpenedRequest | None = None) -> OpenedRequest:
    """Reads study and storage and expands the command's trials. Changes nothing.

    Args:
        request: what the user asked for.
        before: the same request as it was read a moment ago. Its trials are taken if the study is still the same.

    Raises:
        StudyError: for anything wrong in the study, the options or the storage.
    """
    study, asked, storage = read_studies(request)
    every = before.every if before is not None and before.study == study else expand(study)
    return OpenedRequest(study, storage, every, choose(request, study, asked, every))


def read_studies(request: Request) -> tuple[Study, Study, Storage]:
    """Reads the two studies of a request, and its storage. Changes nothing.

    Returns:
        The study of the storage with what this command adds, the study with the sizes and seeds asked for, and the storage.

    Raises:
        StudyError: for anything wrong in the study or the storage.
    """
    declared = load_study(request.study)
    storage = Storage(f"runs/{declared.name}" if request.storage is None else request.storage)
    lists = {name: list(values) for name in ("sizes", "seeds") if (values := getattr(request, name)) is not None}
    asked = declared.replaced(**lists)
    return open_study(storage, declared.extended(asked.sizes, asked.seeds)), asked, storage


def choose(request: Request, study: Study, asked: Study, every: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that a request means, of all trials of a study.

    Raises:
        StudyError: for a name that is not in the study, or a training size that is known to be too large.
    """
    sizes, seeds = set(asked.sizes), set(asked.seeds)
    if sizes == {0} and request.paradigms is not None and set(request.paradigms) == {"baseline"}:
        raise StudyError(f"--sizes: {NO_ZERO_SHOT}")
    # Zero-shot is one trial, whatever the seeds.
    listed = [trial for trial in every if trial.train_size in sizes and (trial.seed in seeds or trial.train_size == 0)]
    trials = select(listed, request.models, request.tasks, request.paradigms, request.variants)
    check_known_sizes(study, trials)
    return trials
