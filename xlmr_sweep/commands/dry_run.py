"""What a command would do and what that would take, worked out without starting anything. Imports neither torch nor ray.

In: a study, its storage, the trials of a command. Out: a `Forecast`, which `dry_run_tables` shows. The time from start to end is
that of the admission of a real run, on a simulated clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xlmr_sweep.commands.disk_forecast import Disk, disk_growth
from xlmr_sweep.commands.preparation import models_to_instruct
from xlmr_sweep.scheduling.cost import CostModel, Estimate
from xlmr_sweep.scheduling.forecast import lower_bound_s, simulate
from xlmr_sweep.scheduling.resources import Node, Width, check_fits, instruct_width
from xlmr_sweep.scheduling.widths import MAX_TRIALS, widths_of
from xlmr_sweep.storage.artifacts import instruct_folder, manifest_of, mixture_folder
from xlmr_sweep.storage.collect import Collected
from xlmr_sweep.storage.environment import machine_cpus
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_spec import AUTO
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study

NODE_GPUS = 8
"""A study that expects more GPUs is assumed to run on nodes of this many."""


@dataclass(frozen=True)
class GroupForecast:
    """What a group of trials takes: all of a command, or those of one model or one task."""

    total: int
    left: int
    """Trials without a record."""
    hours: float
    """GPU-hours of the trials that are left, or CPU-hours where there are no GPUs."""
    sources: frozenset[str]
    """What the expected times rest on; see `Estimate.source`."""
    makespan_s: float
    """From start to end of a command for this group alone, with the instruction jobs that it needs."""
    lower_bound_s: float
    """No order of these trials and jobs takes less."""
    disk: Disk


@dataclass(frozen=True)
class InstructionForecast:
    """What the instruction-tuned weights of one model and variant take."""

    model: str
    """The job's name: the model, and the variant where that has a job of its own."""
    weights: str
    """The folder."""
    state: Literal["given", "done", "not needed", "to run"]
    ranks: int
    estimate: Estimate | None
    """Expected time of the job, if it is to run."""
    mixture: str = ""
    """The folder of its instruction data."""


@dataclass(frozen=True)
class Forecast:
    """What a command would do, and what that takes."""

    study: Study
    nodes: Sequence[Node]
    """The cluster that is assumed."""
    widths: Mapping[str, Width]
    probing: Sequence[str]
    """Models whose share of a GPU is measured first."""
    whole: GroupForecast
    by_model: Mapping[str, GroupForecast]
    by_task: Mapping[str, GroupForecast]
    jobs: Mapping[str, tuple[Width, Estimate]]
    """Instruction jobs to run, by name."""
    instruction: Sequence[InstructionForecast]
    """Of all models and variants with an instructed trial."""
    paper_hours: tuple[float, float] | None = None
    """GPU-hours of the same trials and jobs by the paper's table 1; None if one of the models is not the paper's."""
    by_variant: Mapping[str, GroupForecast] = field(default_factory=dict)
    """Empty where the study has no variants."""

    @property
    def unit(self) -> str:
        """What hours are counted of: `GPU` or `CPU`."""
        return "GPU" if self.study.cluster.gpus else "CPU"

    @property
    def hours(self) -> tuple[float, float]:
        """GPU-hours (or CPU-hours) of fine-tuning and of instruction tuning."""
        tuning = sum(_amount(width, self.unit == "GPU") * cost.seconds for width, cost in self.jobs.values())
        return self.whole.hours, tuning / 3600

    @property
    def is_known(self) -> bool:
        """Whether every expected time rests on something."""
        return "unknown" not in self.whole.sources | {cost.source for _, cost in self.jobs.values()}


def make_forecast(
    study: Study,
    storage: Storage,
    trials: Sequence[Trial],
    found: Collected,
    nodes: Sequence[Node] = (),
    *,
    in_groups: bool = True,
) -> Forecast:
    """Works out what a command's trials take.

    Args:
        study: the study.
        storage: its folder.
        trials: the command's trials.
        found: what the storage holds.
        nodes: the cluster. Default: the one that the study expects.
        in_groups: whether also each model, task and variant alone is forecast, which takes most of the time.

    Raises:
        StudyError: if some trial or job could never start on the GPUs that the study expects.
    """
    names = list(dict.fromkeys(trial.model for trial in trials))
    to_instruct = models_to_instruct(study, storage, [trial for trial in trials if trial.trial_id not in found.done])
    nodes = list(nodes) or assumed_nodes(study)
    has_gpus = bool(study.cluster.gpus)
    widths, probing = widths_of(study, storage, names, nodes)
    jobs = {name: instruct_width(study.model(name), has_gpus) for name in to_instruct}
    check_fits(study, names, nodes, instruct=to_instruct)
    cost = CostModel.of(study, storage, found.rows, has_gpus=has_gpus)
    group = _Grouping(study, storage, nodes, widths, probing, cost, found.done)
    by_model = {
        name: group.forecast(
            [trial for trial in trials if trial.model == name], {job: jobs[job] for job in jobs if study.model(job).name == name}
        )
        for name in (names if in_groups else [])
    }
    by_task = group.by("task", trials, jobs) if in_groups else {}
    by_variant = group.by("variant", trials, jobs) if in_groups and study.variants else {}
    estimates = {name: (width, cost.job(name, _amount(width, has_gpus))) for name, width in jobs.items()}
    instruction = [_instruction(study, storage, name, estimates) for name in _instructed(trials)]
    whole = group.forecast(trials, jobs)
    paper = _paper_hours(cost, group.left(trials), list(jobs)) if has_gpus else None
    return Forecast(study, nodes, widths, probing, whole, by_model, by_task, estimates, instruction, paper, by_variant)


def assumed_nodes(study: Study) -> list[Node]:
    """Returns the cluster that a dry run assumes: the study's GPUs on nodes of eight, or one machine's CPUs."""
    if not study.cluster.gpus:
        ranks = [model.instruct_ranks for model in study.models]
        return [Node(study.cluster.cpus or max([machine_cpus(), *ranks]), 0, "assumed")]
    whole, rest = divmod(int(study.cluster.gpus), NODE_GPUS)
    sizes = [NODE_GPUS] * whole + ([rest] if rest else [])
    # A study does not say how many CPUs a node has. Enough are assumed.
    return [Node(cpus_per_gpu(study) * gpus, gpus, f"assumed-{i}") for i, gpus in enumerate(sizes)]


def cpus_per_gpu(study: Study) -> float:
    """Returns the CPUs that a GPU's share of trials needs at most."""
    each = (model.cpus * MAX_TRIALS if model.gpus == AUTO else model.cpus / min(1.0, model.gpus) for model in study.models)
    return max(1.0, *each)


@dataclass(frozen=True)
class _Grouping:
    """Forecasts groups of a command's trials, all under the same assumptions."""

    study: Study
    storage: Storage
    nodes: Sequence[Node]
    widths: Mapping[str, Width]
    probing: Sequence[str]
    cost: CostModel
    done: set[str]

    def left(self, trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.trial_id not in self.done]

    def forecast(self, trials: Sequence[Trial], jobs: Mapping[str, Width], *, with_weights: bool = True) -> GroupForecast:
        left = self.left(trials)
        has_gpus = bool(self.study.cluster.gpus)
        amounts = {name: _amount(width, has_gpus) for name, width in self.widths.items()}
        estimates = [(amounts[trial.model], self.cost.trial(trial, amounts[trial.model])) for trial in left]
        models = {trial.model for trial in left}
        probing = [name for name in self.probing if name in models]
        simulation = simulate(left, self.widths, self.nodes, self.cost, jobs=jobs, probing=probing)
        return GroupForecast(
            total=len(trials),
            left=len(left),
            hours=sum(amount * estimate.seconds for amount, estimate in estimates) / 3600,
            sources=frozenset(estimate.source for _, estimate in estimates),
            makespan_s=simulation.makespan_s,
            lower_bound_s=lower_bound_s(left, self.widths, self.nodes, self.cost, jobs),
            disk=disk_growth(self.study, self.storage, left, list(jobs) if with_weights else []),
        )

    def by(
        self, field: Literal["task", "variant"], trials: Sequence[Trial], jobs: Mapping[str, Width]
    ) -> dict[str, GroupForecast]:
        """Forecasts the trials of each task or variant with the jobs that they need.

        The weights of an instruction job serve every task, so none of these groups counts their disk.
        """
        found = {}
        for name in dict.fromkeys(getattr(trial, field) for trial in trials):
            mine = [trial for trial in trials if getattr(trial, field) == name]
            needed = {trial.job_name for trial in self.left(mine) if trial.paradigm == "instructed"}
            found[name] = self.forecast(mine, {job: jobs[job] for job in jobs if job in needed}, with_weights=False)
        return found


def _paper_hours(cost: CostModel, left: Sequence[Trial], jobs: Sequence[str]) -> tuple[float, float] | None:
    """Returns the paper's GPU-hours of trials and of jobs."""
    tuning = [cost.paper_s(trial) for trial in left]
    instruction = [cost.paper_job_s(name) for name in jobs]
    if None in tuning or None in instruction:
        return None
    return sum(filter(None, tuning)) / 3600, sum(filter(None, instruction)) / 3600


def _amount(width: Width, has_gpus: bool) -> float:
    return width.total_gpus if has_gpus else width.total_cpus


def _instructed(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.job_name for trial in trials if trial.paradigm == "instructed"))


def _instruction(
    study: Study, storage: Storage, name: str, estimates: Mapping[str, tuple[Width, Estimate]]
) -> InstructionForecast:
    model = study.model(name)
    if model.instructed_folder is not None:
        return InstructionForecast(name, str(model.instructed_folder), "given", model.instruct_ranks, None)
    part = study.of_job(name)
    folder, mixture = instruct_folder(part, model), mixture_folder(part)
    if name in estimates:
        return InstructionForecast(name, folder, "to run", model.instruct_ranks, estimates[name][1], mixture)
    is_there = storage.exists(manifest_of(folder))
    return InstructionForecast(name, folder, "done" if is_there else "not needed", model.instruct_ranks, None, mixture)
