"""A whole run: what is missing is prepared, pre-trained, instruction-tuned and fine-tuned. What is done is never done again.

In: a `RunPlan`. Out: records and instruction-tuned weights in the storage.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from xlmr_sweep.cluster.connect import connected, head_of
from xlmr_sweep.cluster.ending import Ending
from xlmr_sweep.cluster.job_page import JobPage
from xlmr_sweep.cluster.jobs import InstructionJobs, RunJob, in_one_line, pretrain_models
from xlmr_sweep.cluster.nodes import nodes
from xlmr_sweep.cluster.quick_import import quick_imports
from xlmr_sweep.cluster.ray_data import RayDataRunner
from xlmr_sweep.cluster.save_requests import SaveRequests
from xlmr_sweep.cluster.storage_check import LateNodes, check_storage_on_nodes
from xlmr_sweep.cluster.token_file import find_token
from xlmr_sweep.cluster.trial_log import log_name
from xlmr_sweep.cluster.tune.sweep import run_trials
from xlmr_sweep.cluster.waiting import wait_for_head, wait_for_nodes
from xlmr_sweep.cluster.work import Work
from xlmr_sweep.commands.live_file import shown_to_others
from xlmr_sweep.commands.live_table import LiveTable
from xlmr_sweep.commands.preparation import (
    check_models,
    models_to_instruct,
    models_to_pretrain,
    prepare_instructions,
    read_examples,
)
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.commands.tracking import Tracking
from xlmr_sweep.data.examples import ReadTask
from xlmr_sweep.interrupt import on_notice
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.items import Job
from xlmr_sweep.scheduling.resources import NODE_LABEL, Node, check_fits, instruct_width
from xlmr_sweep.scheduling.widths import widths_of
from xlmr_sweep.storage.environment import machine_cpus
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study


@dataclass(frozen=True)
class RunPlan:
    """What a command runs, and where."""

    study: Study
    """The whole study of the storage."""
    storage: Storage
    trials: Sequence[Trial]
    """The trials to run. Where only models are instruction-tuned: the trials that need their weights."""
    address: str
    """As of `--address`."""
    console: Console
    """Where progress goes."""
    accept: Callable[[], None]
    """Called once all that could be wrong has been looked at, before the storage changes for this command."""
    rows: Sequence[Mapping[str, Any]] = ()
    """Results that are there, from which expected times are learned."""
    work: Work | None = None
    """What a trial's processes do; by default they fine-tune."""
    min_nodes: int | None = None
    """Nodes of the cluster to wait for."""
    tracking: Tracking | None = None
    """Is told losses of instruction jobs."""


@dataclass(frozen=True)
class _StartedRun:
    """A run that has its cluster, its data and its pre-trained models."""

    plan: RunPlan
    admission: Admission
    display: ProgressDisplay
    page: JobPage


def run_pending(plan: RunPlan) -> None:
    """Runs the plan's trials, and everything that they need.

    Raises:
        StudyError: if data, models, cluster or storage are wrong, before anything is started.
    """
    with _started(plan, plan.trials) as started:
        admission, display = started.admission, started.display
        live_table = LiveTable(
            display.console,
            plan.trials,
            lambda: admission.capacity,
            "GPUs" if admission.has_gpus else "CPUs",
            lambda trial: plan.storage.path(log_name(trial)),
            lambda: admission.left_s,
        )
        run_job = _job_runner(started)

        def run_job_shown(job: Job) -> None:
            with live_table.job(job.tune_id, admission.amount(job.width)):
                run_job(job)

        with (
            on_notice(plan.study.cluster.end_soon_s) as notice,
            shown_to_others(plan.storage, live_table.snapshot),
            display.panel(live_table.table),
            display.step("Trials", len(plan.trials), live_table.remaining_s) as live_table.step,
            live_table.until_interrupted(),
        ):
            run_trials(
                plan.study,
                plan.storage,
                admission,
                live_table,
                notice=notice,
                run_job=run_job_shown,
                work=plan.work,
                show=started.page.show,
            )


def run_instruction_jobs(plan: RunPlan) -> None:
    """Makes the instruction-tuned weights that the plan's trials need and that are missing; runs none of the trials.

    Raises:
        StudyError: if data, models, cluster or storage are wrong, before anything is started.
    """

    def say(line: str) -> None:
        plan.console.print(line, highlight=False, markup=False, soft_wrap=True)

    with _started(plan, trials=()) as started, on_notice(plan.study.cluster.end_soon_s) as notice:
        jobs = InstructionJobs(
            started.admission,
            _job_runner(started),
            lambda job, error, lost: say(in_one_line(job, error)),
            plan.study.cluster.node_patience_s,
            LateNodes(plan.storage).problem,
            SaveRequests(plan.study, plan.storage),
        )
        ending = Ending(notice, started.admission, jobs, say)
        with ending.saves_first():
            jobs.run_alone(ending.poll)
        ending.finish()


@contextmanager
def _started(plan: RunPlan, trials: Sequence[Trial]) -> Iterator[_StartedRun]:
    """Checks what a run needs, connects to Ray for the length of the block, and makes the data and models that come first.

    Args:
        plan: the plan of the run.
        trials: the trials to run.
    """
    study, storage, display = plan.study, plan.storage, ProgressDisplay(plan.console)
    examples = _checked_inputs(plan, trials, display)
    to_instruct = models_to_instruct(study, storage, plan.trials)
    # Files that are here are checked first. The hub's 37 GB take hours, so they wait until the cluster has been looked at.
    here = [name for name in to_instruct if study.of_job(name).instructions.source != "hub"]
    prepare_instructions(study, here, storage, display, RayDataRunner(plan.address))
    began = time.monotonic()
    page = JobPage(study, storage, len(trials))
    with connected(plan.address, *_local_size(study, to_instruct), metadata=page.metadata) as dashboard, page.kept():
        wait_for_nodes(plan.min_nodes or 1)
        cluster = nodes()
        check_fits(study, _models(trials), cluster, instruct=to_instruct)
        check_storage_on_nodes(storage)
        display.spans["starting Ray"] = (began, time.monotonic())
        if dashboard:
            plan.console.print(f"Ray dashboard: {dashboard}", highlight=False, soft_wrap=True)
        prepare_instructions(study, to_instruct, storage, display, RayDataRunner(plan.address))
        plan.accept()
        for read in examples:
            read.keep(storage)
        _pretrain(plan, to_instruct, display)
        yield _StartedRun(plan, _admission(plan, trials, cluster, to_instruct), display, page)
    plan.console.print(f"Where the time went: {display.where_the_time_went()}", soft_wrap=True, highlight=False)


def _checked_inputs(plan: RunPlan, trials: Sequence[Trial], display: ProgressDisplay) -> list[ReadTask]:
    """Checks address, examples and models, and returns the examples of the trials to run."""
    if plan.address != "local":
        if plan.min_nodes:
            wait_for_head(plan.address)
        # Before anything long: an address where nobody answers is said within seconds.
        head_of(plan.address)
        if problem := find_token().problem:
            plan.console.print(f"Warning: {problem}", highlight=False, markup=False, soft_wrap=True)
    asked = trials or (plan.trials if _scores_tasks(plan.study) else [])
    examples = read_examples(plan.study, plan.storage, asked, display) if asked else []
    check_models(plan.study, plan.storage, plan.trials, plan.console, examples)
    return examples


def _scores_tasks(study: Study) -> bool:
    """Tells whether an instruction job may score tasks, so that their examples are wanted where no trial runs."""
    return any(study.of_job(name).instruct.zero_shot_every for name in study.possible_jobs)


def _pretrain(plan: RunPlan, to_instruct: Sequence[str], display: ProgressDisplay) -> None:
    """Pre-trains the demo models that are missing."""
    to_pretrain = models_to_pretrain(plan.study, plan.storage, plan.trials)
    if to_instruct:
        _import_beside("xlmr_sweep.cluster.instruct_job")
    if to_pretrain:
        pretrain_models(plan.study, plan.storage, to_pretrain, display.step)


def _admission(plan: RunPlan, trials: Sequence[Trial], cluster: Sequence[Node], to_instruct: Sequence[str]) -> Admission:
    """Returns what decides which of the trials and instruction jobs starts next, and where."""
    study, storage = plan.study, plan.storage
    has_gpus = any(node.gpus for node in cluster)
    widths, probing = widths_of(study, storage, _models(plan.trials), cluster)
    return Admission(
        trials,
        widths,
        cluster,
        CostModel.of(study, storage, plan.rows, has_gpus=has_gpus),
        jobs={name: instruct_width(study.model(name), has_gpus) for name in to_instruct},
        probing=probing,
    )


def _models(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.model for trial in trials))


def _import_beside(name: str) -> None:
    """Imports a module in the background. It is wanted soon, and takes some seconds with torch in it."""

    def work() -> None:
        with quick_imports():
            importlib.import_module(name)

    threading.Thread(target=work, daemon=True, name=f"import {name}").start()


def _local_size(study: Study, to_instruct: Sequence[str]) -> tuple[int, int | None]:
    """Returns the CPUs and GPUs of a Ray of this command's own: logical CPUs enough for an instruction job's ranks."""
    ranks = [study.model(name).instruct_ranks for name in to_instruct]
    return study.cluster.cpus or max([machine_cpus(), *ranks]), None if study.cluster.gpus else 0


def _job_runner(started: _StartedRun) -> RunJob:
    """Returns what runs an instruction job and shows how far it is."""
    plan, display, use_gpu = started.plan, started.display, started.admission.has_gpus

    def run(job: Job) -> None:
        from xlmr_sweep.cluster.instruct_job import run_instruct

        with display.step(f"Instruction tuning {job.model}") as shown:
            step = shown if plan.tracking is None else plan.tracking.watched(job.model, shown)
            run_instruct(
                plan.study.of_job(job.model),
                plan.study.model(job.model).name,
                plan.storage,
                num_ranks=job.width.num_bundles,
                use_gpu=use_gpu,
                cpus_per_rank=job.width.cpus,
                label_selector=[{NODE_LABEL: node_id} for node_id in job.allocation.node_ids],
                step=step,
            )

    return run
