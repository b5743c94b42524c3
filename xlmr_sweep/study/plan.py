"""From a study to its trials. Pure: no torch, no ray, no network.

In: a `Study`. Out: `Trial`s, each with the id under which its record is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import IDENTITY_VERSION, data_identity, model_identity, recipe_id, was_hashed_otherwise
from xlmr_sweep.study.spec import AT, Paradigm, Study
from xlmr_sweep.study.tasks import TaskSpec
from xlmr_sweep.study.template import TEMPLATE_VERSION


@dataclass(frozen=True, order=True)
class Trial:
    """One cell of the study: a single fine-tuning run with its score."""

    model: str
    paradigm: Paradigm
    task: str
    train_size: int
    seed: int
    trial_id: str
    variant: str = ""
    """The variant of the study; empty where the study has none."""
    prompt: str = ""
    """The prompt of the task; empty where the task has only its own, and for `baseline`, which sees none."""
    job: str = ""
    """The instruction job whose weights the trial starts from, where it is not that of the study as declared."""

    @property
    def cell(self) -> str:
        """The trial in words, for messages."""
        axes = "".join(f"/{name}" for name in (self.variant, self.prompt) if name)
        return f"{self.model}/{self.paradigm}/{self.task}{axes}/n={self.train_size}/seed={self.seed}"

    @property
    def job_name(self) -> str:
        """The instruction job that an instructed trial waits for: its model, and the variant where that has a job of its own."""
        return self.job or self.model

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a plain dict, without those of axes that the study lacks."""
        return {name: value for name, value in asdict(self).items() if value != "" or name not in OPTIONAL_FIELDS}


OPTIONAL_FIELDS = ("variant", "prompt", "job")
"""Fields of `Trial` that a study without variants and without several prompts lacks."""


def expand(study: Study, *, as_in_0_1: bool = False) -> list[Trial]:
    """Returns every trial of the study: variants, models, paradigms, tasks, prompts, sizes and seeds, in the declared order.

    A trial that several variants share is listed under the first of them.

    Args:
        study: the study.
        as_in_0_1: with the ids that version 0.1 gave them.

    Raises:
        StudyError: if a folder that a trial's identity needs is missing, or two models are the same.
    """
    data = {task.name: data_identity(study, task) for task in study.tasks}
    weights = {model.name: model_identity(study, model, as_in_0_1=as_in_0_1) for model in study.models}
    trials: list[Trial] = []
    seen: dict[str, Trial] = {}
    jobs: dict[str, str] = {}
    for variant in study.variant_names:
        part = study.at(variant)
        for model, paradigm in product(part.models, part.paradigms):
            recipe = recipe_id(part, model, as_in_0_1=as_in_0_1) if paradigm == "instructed" else None
            is_declared = variant == study.variant_names[0]
            job = jobs.setdefault(f"{model.name}-{recipe}", "" if is_declared else f"{model.name}{AT}{variant}") if recipe else ""
            for task, prompt in _asked(study, variant, paradigm):
                base, untrained = (
                    _base_identity(part, weights[model.name], recipe, paradigm, task, data[task.name], is_zero_shot=is_zero_shot)
                    for is_zero_shot in (False, True)
                )
                for size, seed in sizes_and_seeds(study, paradigm):
                    key = _id(base if size else untrained, size, seed)
                    trial = Trial(model.name, paradigm, task.name, size, seed, key, variant, prompt, job)
                    if _is_new(trial, seen):
                        seen[key] = trial
                        trials.append(trial)
    return trials


def _asked(study: Study, variant: str, paradigm: Paradigm) -> Iterator[tuple[TaskSpec, str]]:
    """Yields each task of a variant once per prompt, with that prompt's name. `baseline` sees no prompt."""
    for task in study.tasks:
        for prompt in study.prompt_names(task.name) if paradigm != "baseline" else ("",):
            yield study.at(variant, prompt).task(task.name), prompt


def id_now(study: Study, trial: Trial) -> str:
    """Returns the id that a trial of the study has by the files as they are now on this machine.

    Raises:
        StudyError: if a folder that the trial's identity needs is missing.
    """
    part, model, task = study.at(trial.variant, trial.prompt), study.model(trial.model), study.task(trial.task)
    weights, data = model_identity(study, model), data_identity(study, task)
    recipe = recipe_id(part, model) if trial.paradigm == "instructed" else None
    is_zero_shot = trial.train_size == 0
    base = _base_identity(part, weights, recipe, trial.paradigm, part.task(task.name), data, is_zero_shot=is_zero_shot)
    return _id(base, trial.train_size, trial.seed)


def _id(base: str, size: int, seed: int) -> str:
    return fingerprint({"base": base, "train_size": size, "seed": seed})


def _is_new(trial: Trial, seen: Mapping[str, Trial]) -> bool:
    """Tells whether no earlier variant has the same trial.

    Raises:
        StudyError: if two models or tasks are the same.
    """
    other = seen.get(trial.trial_id)
    if other is None:
        return True
    if (other.model, other.task) == (trial.model, trial.task) and other.variant != trial.variant:
        return False
    raise StudyError(
        f"models {other.model} and {trial.model}, tasks {other.task} and {trial.task}: "
        "two names for the same thing; leave one out"
    )


def plan_fingerprint(trial_ids: Iterable[str]) -> str:
    """Returns the fingerprint of a study: a hash of the ids of all its trials, and so of everything that can change a score."""
    return fingerprint(sorted(trial_ids))


def sizes_and_seeds(study: Study, paradigm: Paradigm) -> Iterator[tuple[int, int]]:
    """Yields training size and seed of each trial of a model, paradigm and task.

    Zero-shot is one trial, of seed 0: without training every seed gives the same score. `baseline` has none.
    """
    for size in study.sizes:
        if size:
            yield from ((size, seed) for seed in study.seeds)
        elif paradigm != "baseline":
            yield 0, 0


def superseded(study: Study, trials: Sequence[Trial]) -> dict[str, str]:
    """Returns the ids under which version 0.1 kept scores of a study that may be wrong, with the reason.

    Args:
        study: the study.
        trials: all of its trials.
    """
    reasons = {model.name: was_hashed_otherwise(model) for model in study.models}
    if not any(reasons.values()):
        return {}
    current = {trial.trial_id for trial in trials}
    older = (trial for trial in expand(study, as_in_0_1=True) if trial.trial_id not in current)
    return {trial.trial_id: f"made by version 0.1 {reasons[trial.model]}" for trial in older}


def _base_identity(
    study: Study, weights: dict[str, Any], recipe: str | None, paradigm: Paradigm, task: TaskSpec, data: dict[str, Any],
    *, is_zero_shot: bool = False,
) -> str:  # fmt: skip
    """Hashes all of a trial's identity except size and seed. So a grid hashes the long part only once.

    Settings that only training uses are left out of a zero-shot trial's identity.
    """
    identity: dict[str, Any] = {
        "identity_version": IDENTITY_VERSION,
        "model": weights,
        "recipe": recipe,
        "head": "classification" if paradigm == "baseline" else "label_words",
        "task": seen_of_task(task, paradigm),
        "data": data,
        "template": None if paradigm == "baseline" else TEMPLATE_VERSION,
        "finetune": study.finetune.identity(is_zero_shot=is_zero_shot),
    }
    if is_zero_shot and study.zero_shot.calibrate:
        identity["content_free"] = list(study.zero_shot.content_free)
    return fingerprint(identity, 32)


def asked_tasks(study: Study, trials: Iterable[Trial]) -> list[TaskSpec]:
    """Returns the tasks of trials, each as its variants and prompts have it."""
    wanted = dict.fromkeys((trial.variant, trial.prompt, trial.task) for trial in trials)
    return [study.at(variant, prompt).task(task) for variant, prompt, task in wanted]


def seen_of_task(task: TaskSpec, paradigm: Paradigm) -> dict[str, Any]:
    """Returns what a trial of a paradigm sees of a task's declaration."""
    # A baseline does not see the prompt, and a prompt does not see the baseline text: a change of one keeps results of the other.
    # Both are shortened at the long field.
    seen = {"baseline"} if paradigm == "baseline" else {"prompt", "label_words"}
    return task.model_dump(mode="json", include={"labels", "metric", "long_field"} | seen)


def select(
    trials: Sequence[Trial],
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    paradigms: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
) -> list[Trial]:
    """Returns the trials of these models, tasks, paradigms and variants (None: of all), in the plan's order.

    Raises:
        StudyError: for a name that no trial has, with those there are.
    """
    wanted = {"model": models, "task": tasks, "paradigm": paradigms, "variant": variants}
    for field, names in wanted.items():
        known = [name for name in dict.fromkeys(getattr(trial, field) for trial in trials) if name]
        for name in names or ():
            if name not in known:
                raise StudyError(f"--{field}s: {name!r} is not in the study; it has {', '.join(known) or 'none'}")
    return [trial for trial in trials if all(names is None or getattr(trial, field) in names for field, names in wanted.items())]
