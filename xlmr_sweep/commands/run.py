"""A whole run: what is missing is prepared, pre-trained, instruction-tuned and fine-tuned; what is done is never done again.

In: a study, its storage, the trials of this command, an address. Out: records, results.parquet, and how many trials have none.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from xlmr_sweep.cluster.connect import connected, head_of, machine_cpus
from xlmr_sweep.cluster.jobs import InstructionJobs, RunJob, pretrain_models
from xlmr_sweep.cluster.nodes import nodes
from xlmr_sweep.cluster.quick_import import quick_imports
from xlmr_sweep.cluster.storage_check import LateNodes, check_storage_on_nodes
from xlmr_sweep.cluster.trial_log import log_name
from xlmr_sweep.cluster.tune.sweep import run_trials
from xlmr_sweep.cluster.work import Work
from xlmr_sweep.commands.live_table import LiveTable
from xlmr_sweep.commands.preparation import (
    check_models,
    models_to_instruct,
    models_to_pretrain,
    prepare_instructions,
    read_examples,
)
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.items import Job
from xlmr_sweep.scheduling.resources import NODE_LABEL, check_fits, instruct_width
from xlmr_sweep.scheduling.widths import widths_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study


def run_pending(
    study: Study,
    storage: Storage,
    pending: Sequence[Trial],
    address: str,
    console: Console,
    accept: Callable[[], None],
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    only_instruct: bool = False,
    work: Work | None = None,
) -> None:
    """Runs trials that have no record, and everything they need.

    Args:
        study: the whole study of the storage.
        storage: its folder.
        pending: the trials to run.
        address: as of `--address`.
        console: where progress goes.
        rows: results that are there, of which expected times are learned.
        accept: called once all that could be wrong has been looked at, before the storage changes for this command.
        only_instruct: stop after the instruction-tuned weights.
        work: what a trial's processes do; by default they fine-tune.

    Raises:
        StudyError: if data, models, cluster or storage are wrong, before anything is started.
    """
    display = ProgressDisplay(console)
    if address != "local":
        # Before anything long: an address where nobody answers is said within seconds.
        head_of(address)
    examples = [] if only_instruct else read_examples(study, storage, pending, display)
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
        for read in examples:
            read.keep(storage)
        to_pretrain = models_to_pretrain(study, storage, pending)
        if to_instruct:
            _import_beside("xlmr_sweep.training.instruct")
        if to_pretrain:
            pretrain_models(study, storage, to_pretrain, display.step)
        display.spans["starting Ray"] = (began, started)
        has_gpus = any(node.gpus for node in cluster)
        trials = [] if only_instruct else pending
        widths, probing = widths_of(study, storage, names, cluster)
        admission = Admission(
            trials,
            widths,
            cluster,
            CostModel.of(study, storage, rows, has_gpus=has_gpus),
            jobs={name: instruct_width(study.model(name), has_gpus) for name in to_instruct},
            probing=probing,
        )
        run_job = _job_runner(study, storage, display, has_gpus)
        if only_instruct:
            jobs = InstructionJobs(
                admission, run_job, lambda job, error, lost: None, study.cluster.node_patience_s, LateNodes(storage).problem
            )
            jobs.run_alone()
        else:
            _run_trials(study, storage, trials, admission, display, run_job, work)
    console.print(f"Where the time went: {display.where_the_time_went()}", soft_wrap=True, highlight=False)


def _import_beside(name: str) -> None:
    """Imports a module that is wanted soon, some seconds with torch in it, while this process waits for others."""

    def work() -> None:
        with quick_imports():
            importlib.import_module(name)

    threading.Thread(target=work, daemon=True, name=f"import {name}").start()


def _local_size(study: Study, to_instruct: Sequence[str]) -> tuple[int, int | None]:
    """Returns the CPUs and GPUs of a Ray of this command's own: logical CPUs enough for an instruction job's ranks."""
    ranks = [study.model(name).instruct_ranks for name in to_instruct]
    return study.cluster.cpus or max([machine_cpus(), *ranks]), None if study.cluster.gpus else 0


def _job_runner(study: Study, storage: Storage, display: ProgressDisplay, use_gpu: bool) -> RunJob:
    """Returns what runs an instruction job and shows how far it is."""

    def run(job: Job) -> None:
        from xlmr_sweep.cluster.instruct_job import run_instruct

        try:
            with display.step(f"Instruction tuning {job.model}") as step:
                run_instruct(
                    study,
                    job.model,
                    storage,
                    num_ranks=job.width.num_bundles,
                    use_gpu=use_gpu,
                    cpus_per_rank=job.width.cpus,
                    label_selector=[{NODE_LABEL: node_id} for node_id in job.allocation.node_ids],
                    step=step,
                )
        except Exception as error:
            text = f"Instruction tuning of {job.model} failed: {type(error).__name__}: {error}"
            display.console.print(text, highlight=False, markup=False)
            raise

    return run


def _run_trials(
    study: Study,
    storage: Storage,
    trials: Sequence[Trial],
    admission: Admission,
    display: ProgressDisplay,
    run_job: RunJob,
    work: Work | None,
) -> None:
    def where(trial: Trial) -> str:
        return storage.path(log_name(trial))

    unit = "GPUs" if admission.has_gpus else "CPUs"
    live_table = LiveTable(display.console, trials, lambda: admission.capacity, unit, where, lambda: admission.left_s)

    def run_job_shown(job: Job) -> None:
        with live_table.job(job.tune_id, admission.amount(job.width)):
            run_job(job)

    with display.panel(live_table.table), display.step("Trials", len(trials), live_table.remaining_s) as live_table.step:
        run_trials(study, storage, admission, live_table, run_job=run_job_shown, work=work)
