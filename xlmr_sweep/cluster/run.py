"""A whole run: what is missing is prepared, pre-trained, instruction-tuned and fine-tuned; what is done is never done again.

In: a study, its storage, the trials of this command, an address. Out: records, results.parquet, and how many trials have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from xlmr_sweep.cluster.connect import connected, find_cluster, machine_cpus, probe
from xlmr_sweep.cluster.jobs import check_storage_on_nodes, instruct_models, pretrain_models
from xlmr_sweep.cluster.resources import Node, Width, check_fits, nodes, trial_width
from xlmr_sweep.cluster.sweep import run_trials
from xlmr_sweep.cluster.trainable import failure_of, next_attempt
from xlmr_sweep.plan import Trial
from xlmr_sweep.preparation import (
    check_models,
    models_to_instruct,
    models_to_pretrain,
    prepare_examples,
    prepare_instructions,
)
from xlmr_sweep.progress import ProgressDisplay, Step
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
            widths = {name: trial_width(study.model(name), has_gpus) for name in names}
            _run_trials(study, storage, ready, widths, cluster, display, tally)
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
) -> None:
    def on_end(trial: Trial, row: Mapping[str, Any]) -> None:
        if row.get("failed"):
            where = storage.path(f"logs/{trial.trial_id}.log")
            line = f"{trial.cell}: {row['error_class']} on {row['host']}: {row['message']} (log: {where})"
            tally.failed.append(line)
            display.console.print(f"Failed {line}", highlight=False, markup=False, soft_wrap=True)
        else:
            tally.done += 1
        _show(step, tally, trial)

    with display.step("Trials", len(trials)) as step:
        run_trials(study, storage, trials, widths, cluster, on_end)


def _show(step: Step, tally: Tally, trial: Trial) -> None:
    failed = f", {len(tally.failed)} failed" if tally.failed else ""
    step.update(tally.done + len(tally.failed), note=f"{trial.cell}{failed}")
