"""From a study to its trials. Pure: no torch, no ray, no network.

In: a `Study`. Out: `Trial`s, each with the id under which its record is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import IDENTITY_VERSION, data_identity, holds_several_weights, model_identity, recipe_id
from xlmr_sweep.study.spec import Paradigm, Study
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

    @property
    def cell(self) -> str:
        """The trial in words, for messages."""
        return f"{self.model}/{self.paradigm}/{self.task}/n={self.train_size}/seed={self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a plain dict."""
        return asdict(self)


def expand(study: Study, *, as_in_0_1: bool = False) -> list[Trial]:
    """Returns every trial of the study, models first, then paradigms, tasks, sizes and seeds, in the declared order.

    Args:
        study: the study.
        as_in_0_1: with the ids that version 0.1 gave them.

    Raises:
        StudyError: if a folder that a trial's identity needs is missing, or two models are the same.
    """
    tasks = {task.name: data_identity(study, task) for task in study.tasks}
    trials = []
    seen: dict[str, Trial] = {}
    for model in study.models:
        weights = model_identity(study, model, as_in_0_1=as_in_0_1)
        for paradigm in study.paradigms:
            recipe = recipe_id(study, model, as_in_0_1=as_in_0_1) if paradigm == "instructed" else None
            for task in study.tasks:
                base = _base_identity(study, weights, recipe, paradigm, task, tasks[task.name])
                untrained = _base_identity(study, weights, recipe, paradigm, task, tasks[task.name], is_zero_shot=True)
                for size, seed in sizes_and_seeds(study, paradigm):
                    key = fingerprint({"base": base if size else untrained, "train_size": size, "seed": seed})
                    trial = Trial(model.name, paradigm, task.name, size, seed, key)
                    if key in seen:
                        raise StudyError(
                            f"models {seen[key].model} and {trial.model}, tasks {seen[key].task} and {trial.task}: "
                            "two names for the same thing; leave one out"
                        )
                    seen[key] = trial
                    trials.append(trial)
    return trials


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
    if not any(holds_several_weights(model) for model in study.models):
        return {}
    reason = "made by version 0.1 from a folder with several files of weights, of which it may have read the wrong one"
    current = {trial.trial_id for trial in trials}
    return {trial.trial_id: reason for trial in expand(study, as_in_0_1=True) if trial.trial_id not in current}


def _base_identity(
    study: Study, weights: dict[str, Any], recipe: str | None, paradigm: Paradigm, task: TaskSpec, data: dict[str, Any],
    *, is_zero_shot: bool = False,
) -> str:  # fmt: skip
    """Hashes all of a trial's identity except size and seed. So a grid hashes the long part only once.

    What only training uses is no part of a zero-shot trial.
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
) -> list[Trial]:
    """Returns the trials of these models, tasks and paradigms (None: of all), in the plan's order.

    Raises:
        StudyError: for a name that no trial has, with those there are.
    """
    wanted = {"model": models, "task": tasks, "paradigm": paradigms}
    for field, names in wanted.items():
        known = list(dict.fromkeys(getattr(trial, field) for trial in trials))
        for name in names or ():
            if name not in known:
                raise StudyError(f"--{field}s: {name!r} is not in the study; it has {', '.join(known)}")
    return [trial for trial in trials if all(names is None or getattr(trial, field) in names for field, names in wanted.items())]
