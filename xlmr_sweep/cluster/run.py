"""A whole run: what is missing is prepared, pre-trained, instruction-tuned and fine-tuned; what is done is never done again.

In: a study, its storage, the trials of this command, an address. Out: records, results.parquet, and how many trials have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from xlmr_sweep.board import Board
from xlmr_sweep.cluster.connect import connected, find_cluster, machine_cpus, probe
from xlmr_sweep.cluster.failures import failure_of
from xlmr_sweep.cluster.jobs import check_storage_on_nodes, instruct_models, pretrain_models
from xlmr_sweep.cluster.policy import at_least
from xlmr_sweep.cluster.resources import Node, Width, check_fits, nodes, trial_width
from xlmr_sweep.cluster.sweep import run_trials
from xlmr_sweep.cluster.trial_log import log_name, next_attempt
from xlmr_sweep.cluster.work import Work
from xlmr_sweep.plan import Trial
from xlmr_sweep.preparation import (
    check_models,
    models_to_instruct,
    models_to_pretrain,
    prepare_examples,
    prepare_instructions,
)
from xlmr_sweep.progress import ProgressDisplay
from xlmr_sweep.records import write_failure
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study


@dataclass
class Tally:
    """How a run's trials ended."""

    done: int = 0
    failed: list[str] = field(default_factory=list)


def run_pending(
    study: Study,
    storage: Storage,
    pending: Sequence[Trial],
    address: str,
    console: Console,
    accept: Callable[[], None],
    *,
    only_instruct: bool = False,
    work: Work | None = None,
) -> Tally:
    """Runs trials that have no record, and everything they need.

    Args:
        study: the whole study of the storage.
        storage: its folder.
        pending: the trials to run.
        address: as of `--address`.
        console: where progress goes.
        accept: called once all that could be wrong has been looked at, before the storage changes for this command.
        only_instruct: stop after the instruction-tuned weights.
        work: what a trial's processes do; by default they fine-tune.

    Raises:
        StudyError: if data, models, cluster or storage are wrong, before anything is started.
    """
    display = ProgressDisplay(console)
    if address != "local":
        # Before anything long: an address where nobody answers is said within seconds.
        probe(find_cluster() if address == "auto" else address)
    if not only_instruct:
        prepare_examples(study, storage, pending, display)
    check_models(study, storage, pending, console)
    to_instruct = models_to_instruct(study, storage, pending)
    names = list(dict.fromkeys(trial.model for trial in pending))
    if to_instruct and study.instructions.source != "hub":
        # The hub's 37 GB take hours, so they wait until the cluster has been looked at; files that are here are checked first.
        prepare_instructions(study, storage, display)
    began = time.monotonic()
    with connected(address, *_local_size(study, to_instruct)) as dashboard:
        cluster = nodes()
        check_fits(study, [] if only_instruct else names, cluster, instruct=to_instruct)
        check_storage_on_nodes(storage)
        started = time.monotonic()
        if dashboard:
            console.print(f"Ray dashboard: http://{dashboard}", highlight=False)
        if to_instruct:
            prepare_instructions(study, storage, display)
        accept()
        to_pretrain = models_to_pretrain(study, storage, pending)
        if to_pretrain:
            pretrain_models(study, storage, to_pretrain, display)
        has_gpus = any(node.gpus for node in cluster)
        broken = instruct_models(study, storage, to_instruct, display, cluster) if to_instruct else {}
        display.durations_s["starting Ray"] = started - began
        tally = Tally()
        ready = _without_weights(None if only_instruct else storage, pending, broken, tally, console)
        if not only_instruct and ready:
            widths = {name: at_least(trial_width(study.model(name), has_gpus), storage, name, cluster) for name in names}
            _run_trials(study, storage, ready, widths, cluster, display, tally, work)
    spent = ", ".join(f"{name.lower()} {seconds:.0f} s" for name, seconds in display.durations_s.items() if seconds >= 0.5)
    console.print(f"Where the time went: {spent}", soft_wrap=True, highlight=False)
    return tally


def _local_size(study: Study, to_instruct: Sequence[str]) -> tuple[int, int | None]:
    """Returns the CPUs and GPUs of a Ray of this command's own: logical CPUs enough for an instruction job's ranks."""
    ranks = [study.model(name).instruct_ranks for name in to_instruct]
    return study.cluster.cpus or max([machine_cpus(), *ranks]), None if study.cluster.gpus else 0


def _without_weights(
    storage: Storage | None, pending: Sequence[Trial], broken: Mapping[str, Exception], tally: Tally, console: Console
) -> list[Trial]:
    """Records the failure of trials whose instruction job failed (not without a storage); returns the others."""
    for name, error in broken.items():
        console.print(f"Instruction tuning of {name} failed: {type(error).__name__}: {error}", highlight=False, markup=False)
    ready = []
    for trial in pending:
        if trial.paradigm == "instructed" and trial.model in broken:
            if storage is not None:
                write_failure(storage, trial, failure_of(broken[trial.model], next_attempt(storage, trial)))
            tally.failed.append(f"{trial.cell}: no instruction-tuned weights")
        else:
            ready.append(trial)
    return ready


def _run_trials(
    study: Study,
    storage: Storage,
    trials: Sequence[Trial],
    widths: Mapping[str, Width],
    cluster: Sequence[Node],
    display: ProgressDisplay,
    tally: Tally,
    work: Work | None,
) -> None:
    has_gpus = any(node.gpus for node in cluster)
    capacity = sum(node.gpus if has_gpus else node.cpus for node in cluster)
    unit = "GPUs" if has_gpus else "CPUs"
    board = Board(display.console, trials, capacity, unit, lambda trial: storage.path(log_name(trial)))
    try:
        with display.panel(board.table), display.step("Trials", len(trials)) as board.step:
            run_trials(study, storage, trials, widths, cluster, board, work=work)
    finally:
        tally.done += board.done
        tally.failed += board.failed
