"""One function a command: run, instruct, prepare, status, dry run, check. In: a request, a console. Out: the exit status.

Importing it loads neither torch nor ray. They are imported once it is clear that something is to run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from xlmr_sweep.commands.dry_run import make_forecast
from xlmr_sweep.commands.dry_run_tables import forecast_parts
from xlmr_sweep.commands.memory_forecast import forecast_memory
from xlmr_sweep.commands.memory_table import memory_parts
from xlmr_sweep.commands.passport import passports_at_hand
from xlmr_sweep.commands.passport_table import passport_table
from xlmr_sweep.commands.preparation import models_to_instruct, prepare_instructions, read_examples
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.commands.request import OpenedRequest, Request, choose, open_request, read_studies
from xlmr_sweep.commands.status import print_status
from xlmr_sweep.commands.text_check import check_texts, examples_at_hand, is_exact, tokenizer_at_hand
from xlmr_sweep.commands.tracking import Tracking, check_trackers
from xlmr_sweep.commands.watch import watch
from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.lost_output import goes_on_without_output
from xlmr_sweep.modeling.quick_check import folder_notes
from xlmr_sweep.storage.artifacts import DATA, DRIVER, RESULTS_FILE, STUDY_FILE, TMP, corrupt_file, instruct_folder, stale_file
from xlmr_sweep.storage.collect import Collected, collect, set_aside, write_results
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.relocated import collect_relocated
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.spec import Study

if TYPE_CHECKING:
    from xlmr_sweep.cluster.work import Work
    from xlmr_sweep.data.part_work import PartDone, PartWork
    from xlmr_sweep.data.row_files import Segment


def status(request: Request, console: Console, *, keep_watching: bool = False) -> int:
    """`--status`: what the storage holds of its whole study, also where the folders that the study names are gone.

    Args:
        request: what is asked for.
        console: prints the table.
        keep_watching: shows then the live table of the process that runs the study, until all is done (`--watch`).
    """
    study, asked, storage = read_studies(request)

    def read() -> tuple[Collected, str]:
        try:
            return collect(storage, study, expand(study)), ""
        except MissingFolderError as error:
            if not storage.exists(STUDY_FILE):
                raise
            return collect_relocated(storage, study), str(error)

    found, not_here = read()
    # Wrong options are refused, although the table shows the whole study.
    choose(request, study, asked, [Trial(**{"trial_id": "", **cell}) for cell in found.planned])
    print_status(console, found, not_here)
    for note in folder_notes(study, {row["model"]: None for row in found.rows}):
        _say(console, f"Note: {note}")
    if not keep_watching:
        return 0

    def count() -> tuple[int, int]:
        now = read()[0]
        return len(now.rows), len(now.planned)

    return watch(storage, console, count)


def dry_run(request: Request, console: Console) -> int:
    """`--dry-run`: what the command would do, what that takes, and what is done.

    Raises:
        StudyError: also for what a run would refuse of examples that lie in a folder.
    """
    opened = open_request(request)
    study, storage, trials = opened.study, opened.storage, opened.trials
    if study.data.source == "folder":
        read_examples(study, storage, trials, ProgressDisplay(Console(quiet=True)))
    found = collect(storage, study, opened.every)
    parts = forecast_parts(make_forecast(study, storage, trials, found), storage)
    read_tokenizer, read_rows = partial(tokenizer_at_hand, study, storage), partial(examples_at_hand, study, storage)
    notes: list[str] = []
    unchecked = check_texts(study, trials, read_tokenizer, read_rows, partial(is_exact, study, storage), notes.append)
    if unchecked:
        parts.append(f"Label words and prompts not checked: {', '.join(unchecked)}")
    notes += folder_notes(study, dict.fromkeys(trial.model for trial in trials))
    parts += [f"Warning: {note}" for note in notes]
    memory = forecast_memory(study, storage, trials, found.done)
    passports, without = passports_at_hand(study, storage, trials, memory)
    parts += [*memory_parts(memory), *([passport_table(study, passports)] if passports else [])]
    if without:
        parts.append(f"No passport (files not at hand; --check-models fetches the small ones): {', '.join(without)}")
    for part in parts:
        if isinstance(part, str):
            _say(console, part)
        else:
            console.print(part)
    return 0


def check(request: Request, address: str, console: Console) -> int:
    """`--check`: what a run needs is looked at, on every node, and nothing is started. Returns 2 if something is wrong."""
    from xlmr_sweep.commands.check import check as check_all

    return check_all(request, address, console)


def check_models(request: Request, console: Console) -> int:
    """`--check-models`: checks the command's models as a run would, and shows a passport of each. Changes nothing.

    Raises:
        StudyError: for the last of the models that cannot serve, after all others were said and shown.
    """
    from xlmr_sweep.commands.model_passports import examine_models

    opened = open_request(request)
    passports, problems = examine_models(opened.study, opened.storage, opened.trials, console)
    if passports:
        console.print(passport_table(opened.study, passports))
    for problem in problems[:-1]:
        _say(console, f"Error: {problem}")
    if problems:
        raise problems[-1]
    return 0


def run(
    request: Request,
    address: str,
    console: Console,
    *,
    retry_failed: bool = True,
    work: Work | None = None,
    min_nodes: int | None = None,
) -> int:
    """Runs the trials that have no record, and rewrites results.parquet.

    Args:
        request: what is to run.
        address: value of `--address`.
        console: prints the progress.
        retry_failed: run trials again whose last attempt failed.
        work: what a trial's processes do in place of fine-tuning, for measurements of all else.
        min_nodes: nodes of the cluster to wait for.

    Raises:
        StudyError: before anything was started.
    """
    opened = open_request(request)
    with goes_on_without_output(), _nothing_left_if_refused(opened.storage), only_driver(opened.storage):
        # Read again: another driver may have added sizes or seeds until a moment ago.
        return _run(open_request(request, opened), address, console, retry_failed, work, min_nodes)


def _run(
    opened: OpenedRequest, address: str, console: Console, retry_failed: bool, work: Work | None, min_nodes: int | None
) -> int:
    began = time.monotonic()
    study, trials = opened.study, opened.trials
    storage = opened.storage.patient(study.cluster.storage_patience_s)
    found = collect(storage, study, opened.every)
    accept = _Acceptance(study, storage, found, console)
    skipped = found.done | (set() if retry_failed else found.failed)
    pending = [trial for trial in trials if trial.trial_id not in skipped]
    _say(console, f"Study {study.name}: {len(trials)} trials, {len(pending)} to run; storage {storage}")
    check_trackers(study)
    tracking = Tracking(study, storage, partial(_say, console))
    is_at_end = False
    try:
        if pending:
            from xlmr_sweep.commands.run import RunPlan, run_pending

            run_pending(RunPlan(study, storage, pending, address, console, accept, found.rows, work, min_nodes, tracking))
        else:
            accept()
        is_at_end = True
    finally:
        if accept.is_given:
            found = collect(storage, study, opened.every)
            write_results(storage, found)
            if not is_at_end:
                _say_how_many(console, opened, found, began)
    if pending:
        # Not after an interrupt: a tracker may take longer than the half minute in which a command ends.
        tracking.finish(found.rows)
    without = _say_how_many(console, opened, found, began)
    if without:
        _say(console, f"Without a record: {_some([trial.cell for trial in without])}; see --status")
    return 1 if without else 0


def _say_how_many(console: Console, opened: OpenedRequest, found: Collected, began: float) -> list[Trial]:
    """Says how many trials have a record, and returns those without one."""
    without = [trial for trial in opened.trials if trial.trial_id not in found.done]
    num_done, num_all = len(opened.trials) - len(without), len(opened.trials)
    seconds, results = time.monotonic() - began, opened.storage.path(RESULTS_FILE)
    _say(console, f"{num_done} of {num_all} trials have a record, {seconds:.1f} s; {results}")
    return without


def instruct(request: Request, address: str, console: Console, min_nodes: int | None = None) -> int:
    """Makes the instruction-tuned weights of the command's models that are missing; runs no trial.

    Raises:
        StudyError: before anything was started.
    """
    opened = open_request(request)
    with goes_on_without_output(), _nothing_left_if_refused(opened.storage), only_driver(opened.storage):
        return _instruct(open_request(request, opened), address, console, min_nodes)


def _instruct(opened: OpenedRequest, address: str, console: Console, min_nodes: int | None) -> int:
    study, storage, trials = opened.study, opened.storage, opened.trials
    found = collect(storage, study, opened.every)
    missing = models_to_instruct(study, storage, trials)
    _say(console, f"Study {study.name}: {len(missing)} models to instruct-tune; storage {storage}")
    check_trackers(study)
    if missing:
        from xlmr_sweep.commands.run import RunPlan, run_instruction_jobs

        accept, tracking = _Acceptance(study, storage, found, console), Tracking(study, storage, partial(_say, console))
        run_instruction_jobs(RunPlan(study, storage, trials, address, console, accept, min_nodes=min_nodes, tracking=tracking))
        tracking.finish(found.rows)
    left = models_to_instruct(study, storage, trials)
    for name in sorted({trial.job_name for trial in trials} - set(left)):
        model = study.model(name)
        _say(console, f"{name}: {model.instructed_folder or storage.path(instruct_folder(study.of_job(name), model))}")
    if left:
        console.print(f"Without instruction-tuned weights: {', '.join(left)}")
    return 1 if left else 0


def prepare(request: Request, address: str, console: Console, *, instructions: bool = True) -> int:
    """Puts the examples of the command's tasks, and the instruction data, into the storage. Large data are prepared on Ray.

    Raises:
        StudyError: for data that are missing or malformed.
    """
    opened = open_request(request)
    display = ProgressDisplay(console)
    with goes_on_without_output(), _nothing_left_if_refused(opened.storage):
        examples = read_examples(opened.study, opened.storage, opened.trials, display)
        if instructions:
            jobs = opened.study.possible_jobs
            prepare_instructions(opened.study, jobs, opened.storage, display, partial(_on_ray, address))
    for read in examples:
        read.keep(opened.storage)
    # Read again: the hub's data take hours, and meanwhile a run may have added sizes or seeds.
    write_study(opened.storage, read_studies(request)[0])
    _say(console, f"Data of study {opened.study.name}: {opened.storage.path(DATA)}")
    return 0


def _on_ray(address: str, work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
    from xlmr_sweep.cluster.ray_data import RayDataRunner

    yield from RayDataRunner(address)(work, segments)


@dataclass
class _Acceptance:
    """Called once nothing of a command was refused. Only then does the storage remember the command's sizes and seeds."""

    study: Study
    storage: Storage
    found: Collected
    console: Console
    is_given: bool = False

    def __call__(self) -> None:
        for name, problem in self.found.corrupt.items():
            _say(self.console, f"Set aside {corrupt_file(name)}: {problem}")
        for trial_id, changed in self.found.stale.items():
            _say(self.console, f"Set aside {stale_file(trial_id)}: {changed}")
        for folder, changed in self.found.outdated.items():
            _say(self.console, f"Making {folder} anew: {changed}")
        set_aside(self.storage, self.found)
        write_study(self.storage, self.study)
        self.is_given = True


@contextmanager
def _nothing_left_if_refused(storage: Storage) -> Iterator[None]:
    """Checks that the storage can be written. If the command is refused, the empty folders are removed that this check and a
    claim made."""
    absent = storage.absent_above()
    try:
        storage.check_writable()
        yield
    except StudyError:
        storage.remove_empty(DRIVER, TMP, DATA, "", above=absent)
        raise


def _say(console: Console, line: str) -> None:
    # Without markup: a path may hold brackets.
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
