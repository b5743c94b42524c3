"""Runs single trials by the library in this process, with the time of every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from benchmarks.trial_parts.grids import Grid, declare

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.seeds import derived_seed
from xlmr_sweep.training.warm_state import WarmState


@dataclass
class Timed:
    """Where a trial's time went, in seconds."""

    first_setup_s: float
    """In a process that has imported everything but has seen neither data nor weights."""
    setup_s: float
    """In a warm one."""
    eval_s: float
    num_eval: int
    peak_bytes: int
    steps_s: list[float] = field(default_factory=list)
    """Each step after the first."""
    scores: list[float] = field(default_factory=list)
    """The first label's probability of every evaluation example."""


def open_trial(grid: Grid, encoder: Path, data: Path, scratch: Path, precision: str) -> tuple[WarmState, Trial]:
    """Returns the warm state of one process for a grid's study, and its first trial."""
    scratch.mkdir(parents=True, exist_ok=True)
    study = declare(grid, encoder, data, scratch / "study.yaml", precision)
    return open_warm_state(study, scratch / "storage"), expand(study)[0]


def open_warm_state(study: Study, home: Path) -> WarmState:
    """Returns the warm state of one process, its data prepared."""
    storage = Storage(home)
    for task in study.tasks:
        prepare_task(study, task, storage)
    return WarmState(study, storage, World(device=torch.device("cpu")))


def time_trial(warm: WarmState, trial: Trial, on_step: Callable[[int], None] = lambda step: None) -> Timed:
    """Runs a trial with a warm state that has prepared it once before."""
    torch.set_num_threads(warm.study.finetune.threads)
    began = time.perf_counter()
    warm.model(trial, torch.Generator().manual_seed(derived_seed(trial.seed, "head")))
    first_setup = time.perf_counter() - began
    marks: list[float] = []

    def mark(step: int) -> None:
        on_step(step)
        marks.append(time.perf_counter())

    outcome = finetune(trial, warm, mark)
    columns = outcome.columns
    steps = [later - earlier for earlier, later in pairwise(marks)]
    return Timed(
        first_setup, columns["setup_time_s"], columns["eval_time_s"], columns["num_eval"], columns["peak_memory_bytes"], steps,
        outcome.predictions["score_0"],
    )  # fmt: skip
