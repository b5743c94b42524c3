"""The commands behind `experiments/*.py`: reads options, decides what is to run, and turns every end into an exit status.

0: every trial of this command's plan has a record. 1: some has none. 2: the command, the study or the surroundings are wrong.
130: interrupted; what is done is kept.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from xlmr_sweep.commands.dry_run import print_forecast
from xlmr_sweep.commands.memory_table import print_memory
from xlmr_sweep.commands.preparation import check_known_sizes, models_to_instruct, prepare_instructions, read_examples
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.commands.status import print_status
from xlmr_sweep.errors import MissingFolderError, StorageError, StudyError
from xlmr_sweep.interrupt import INTERRUPTED, KEPT, in_order
from xlmr_sweep.storage.artifacts import DATA, DRIVER, RESULTS_FILE, STUDY_FILE, TMP, corrupt_file, instruct_folder, stale_file
from xlmr_sweep.storage.collect import Collected, collect, set_aside, write_results
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.relocated import collect_relocated
from xlmr_sweep.storage.study_file import open_study, write_study
from xlmr_sweep.study.plan import Trial, expand, select
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study

if TYPE_CHECKING:
    from xlmr_sweep.cluster.work import Work


PIPE_WIDTH = 160
"""Columns of tables where nobody says how wide the output is."""


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


@dataclass(frozen=True)
class Opened:
    """A request with its study and storage read."""

    whole: Study
    """The study of the storage, with all sizes and seeds ever added and those of this command."""
    every: list[Trial]
    """All trials of that study."""
    trials: list[Trial]
    """The trials of this command."""
    storage: Storage


def open_request(request: Request, before: Opened | None = None) -> Opened:
    """Reads study and storage and expands the command's trials. Changes nothing.

    Args:
        request: what the user asked for.
        before: the same request as read a moment ago; its trials are taken if the study is still the same.

    Raises:
        StudyError: for anything wrong in the study, the options or the storage.
    """
    whole, asked, storage = _read_studies(request)
    every = before.every if before is not None and before.whole == whole else expand(whole)
    return Opened(whole, every, _chosen(request, whole, asked, every), storage)


def _read_studies(request: Request) -> tuple[Study, Study, Storage]:
    """Returns the study of the storage with what this command adds, the study with the sizes and seeds asked for, the storage."""
    declared = load_study(request.study)
    storage = Storage(f"runs/{declared.name}" if request.storage is None else request.storage)
    lists = {name: list(values) for name in ("sizes", "seeds") if (values := getattr(request, name)) is not None}
    asked = declared.replaced(**lists)
    return open_study(storage, declared.extended(asked.sizes, asked.seeds)), asked, storage


def _chosen(request: Request, whole: Study, asked: Study, every: Sequence[Trial]) -> list[Trial]:
    sizes, seeds = set(asked.sizes), set(asked.seeds)
    listed = [trial for trial in every if trial.train_size in sizes and trial.seed in seeds]
    trials = select(listed, request.models, request.tasks, request.paradigms)
    check_known_sizes(whole, trials)
    return trials


def status(request: Request, console: Console) -> int:
    """`--status`: what the storage holds of its whole study, also where the folders that the study names are gone."""
    whole, asked, storage = _read_studies(request)
    not_here = ""
    try:
        every = expand(whole)
        found = collect(storage, whole, every)
    except MissingFolderError as error:
        if not storage.exists(STUDY_FILE):
            raise
        found, not_here = collect_relocated(storage, whole), str(error)
        every = [Trial(**cell, trial_id="") for cell in found.planned]
    _chosen(request, whole, asked, every)
    print_status(console, found, not_here)
    return 0


def dry_run(request: Request, console: Console) -> int:
    """`--dry-run`: the plan, its needs and what is done.

    Raises:
        StudyError: also for what a run would refuse of examples that lie in a folder.
    """
    opened = open_request(request)
    if opened.whole.data.source == "folder":
        read_examples(opened.whole, opened.storage, opened.trials, ProgressDisplay(Console(quiet=True)))
    found = collect(opened.storage, opened.whole, opened.every)
    print_forecast(console, opened.whole, opened.storage, opened.trials, found)
    print_memory(console, opened.whole, opened.storage, opened.trials, found.done)
    return 0


def run(request: Request, address: str, console: Console, *, retry_failed: bool = True, work: Work | None = None) -> int:
    """Runs the trials that have no record, and rewrites results.parquet.

    Args:
        request: what is to run.
        address: as of `--address`.
        console: where progress goes.
        retry_failed: run trials again whose last attempt failed.
        work: what a trial's processes do in place of fine-tuning, for measurements of all else.

    Raises:
        StudyError: before anything was started.
    """
    opened = open_request(request)
    with _nothing_left_if_refused(opened.storage), only_driver(opened.storage):
        # Read again: another driver may have added sizes or seeds until a moment ago.
        return _run(open_request(request, opened), address, console, retry_failed, work)


def _run(opened: Opened, address: str, console: Console, retry_failed: bool, work: Work | None) -> int:
    began = time.monotonic()
    whole = opened.whole
    storage = opened.storage.patient(whole.cluster.storage_patience_s)
    found = collect(storage, whole, opened.every)
    accepted = False

    def accept() -> None:
        nonlocal accepted
        _accept(storage, whole, found, console)
        accepted = True

    skipped = found.done | (set() if retry_failed else found.failed)
    pending = [trial for trial in opened.trials if trial.trial_id not in skipped]
    _say(console, f"Study {whole.name}: {len(opened.trials)} trials, {len(pending)} to run; storage {storage}")
    try:
        if pending:
            from xlmr_sweep.commands.run import run_pending

            run_pending(whole, storage, pending, address, console, accept, rows=found.rows, work=work)
        else:
            accept()
    finally:
        if accepted:
            found = collect(storage, whole, opened.every)
            write_results(storage, found)
    without = [trial for trial in opened.trials if trial.trial_id not in found.done]
    _say(
        console,
        f"{len(opened.trials) - len(without)} of {len(opened.trials)} trials have a record, {time.monotonic() - began:.1f} s; "
        f"{storage.path(RESULTS_FILE)}",
    )
    if without:
        _say(console, f"Without a record: {_some([trial.cell for trial in without])}; see --status")
    return 1 if without else 0


def _accept(storage: Storage, whole: Study, found: Collected, console: Console) -> None:
    """From here on the storage remembers the command's sizes and seeds; a refused command leaves it as it was."""
    for name, problem in found.corrupt.items():
        _say(console, f"Set aside {corrupt_file(name)}: {problem}")
    for trial_id, changed in found.stale.items():
        _say(console, f"Set aside {stale_file(trial_id)}: {changed}")
    for folder, changed in found.outdated.items():
        _say(console, f"Making {folder} anew: {changed}")
    set_aside(storage, found)
    write_study(storage, whole)


def instruct(request: Request, address: str, console: Console) -> int:
    """Makes the instruction-tuned weights of the command's models that are missing; runs no trial.

    Raises:
        StudyError: before anything was started.
    """
    opened = open_request(request)
    with _nothing_left_if_refused(opened.storage), only_driver(opened.storage):
        return _instruct(open_request(request, opened), address, console)


def _instruct(opened: Opened, address: str, console: Console) -> int:
    found = collect(opened.storage, opened.whole, opened.every)
    missing = models_to_instruct(opened.whole, opened.storage, opened.trials)
    _say(console, f"Study {opened.whole.name}: {len(missing)} models to instruct-tune; storage {opened.storage}")
    if missing:
        from xlmr_sweep.commands.run import run_pending

        def accept() -> None:
            _accept(opened.storage, opened.whole, found, console)

        run_pending(opened.whole, opened.storage, opened.trials, address, console, accept, only_instruct=True)
    left = models_to_instruct(opened.whole, opened.storage, opened.trials)
    for name in sorted({trial.model for trial in opened.trials} - set(left)):
        model = opened.whole.model(name)
        where = model.instructed_folder or opened.storage.path(instruct_folder(opened.whole, model))
        _say(console, f"{name}: {where}")
    if left:
        console.print(f"Without instruction-tuned weights: {', '.join(left)}")
    return 1 if left else 0


def prepare(request: Request, console: Console, *, instructions: bool = True) -> int:
    """Puts the examples of the command's tasks, and the instruction data, into the storage.

    Raises:
        StudyError: for data that are missing or malformed.
    """
    opened = open_request(request)
    display = ProgressDisplay(console)
    with _nothing_left_if_refused(opened.storage):
        examples = read_examples(opened.whole, opened.storage, opened.trials, display)
        if instructions and _tunes(opened.whole):
            prepare_instructions(opened.whole, opened.storage, display)
    for read in examples:
        read.keep(opened.storage)
    # Read again: a run beside it may have added sizes or seeds, and the hub's data take hours.
    write_study(opened.storage, _read_studies(request)[0])
    _say(console, f"Data of study {opened.whole.name}: {opened.storage.path(DATA)}")
    return 0


def _tunes(study: Study) -> bool:
    """Tells whether some model of a study is instruction-tuned by us."""
    return "instructed" in study.paradigms and any(model.instructed_folder is None for model in study.models)


@contextmanager
def _nothing_left_if_refused(storage: Storage) -> Iterator[None]:
    """Checks that the storage can be written; takes away the empty folders of this and of a claim if the command is refused."""
    try:
        storage.check_writable()
        yield
    except StudyError:
        storage.remove_empty(DRIVER, TMP, "")
        raise


def _say(console: Console, line: str) -> None:
    # Without markup: a path may hold brackets.
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def main(command: Callable[[Console], int]) -> int:
    """Runs a command and returns its exit status; Ctrl-C and SIGTERM end it with 130."""
    # Without emoji: a port or a path may hold `:1:`, which rich would turn into a picture.
    console = Console(emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A pipe has no width, and tables folded into 80 columns lose their names.
        console.width = PIPE_WIDTH
    errors = Console(stderr=True, emoji=False)
    # What it says at each try is said once, by us, when all were in vain.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with in_order():
            return command(console)
    except StudyError as error:
        errors.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except StorageError as error:
        errors.print(
            f"Error: {error}. What is done is kept; the same command goes on.", style="red", highlight=False, markup=False
        )
        return 1
    except KeyboardInterrupt:
        # Whoever read it may have ended by the same signal.
        with suppress(OSError):
            errors.print(KEPT, highlight=False)
        return INTERRUPTED


def leave(status_code: int) -> None:
    """Ends the process. An interrupted one does not wait for threads that still talk to a Ray that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status_code == INTERRUPTED:
        os._exit(status_code)
    sys.exit(status_code)
