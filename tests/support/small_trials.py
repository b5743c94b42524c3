"""Trials of the tests' small study, with its examples prepared, in one process."""

from __future__ import annotations

from typing import Any

import pytest

from xlmr_sweep.data.encoding import evaluation_batches
from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training import evaluation
from xlmr_sweep.training.warm_state import WarmState

ALONE = World()


def prepared(study: Study, storage: Storage) -> WarmState:
    """Returns a warm state whose storage holds the study's examples."""
    for task in study.tasks:
        prepare_task(study, task, storage)
    return WarmState(study, storage, ALONE)


def pick(study: Study, paradigm: str, task: str = "copa", size: int = 8, seed: int = 0) -> Trial:
    """Returns one trial of the study's first model."""
    wanted = (paradigm, task, size, seed)
    return next(t for t in expand(study) if (t.paradigm, t.task, t.train_size, t.seed) == wanted)


def settings(**changes: Any) -> dict[str, Any]:
    """Returns the `finetune` part of a study of few steps in fp32."""
    return {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32", **changes}


def noted_budgets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that gets the most tokens of a batch, one entry for each evaluation of a test."""
    budgets: list[int] = []

    def spy(examples: Any, max_tokens: int) -> Any:
        budgets.append(max_tokens)
        return evaluation_batches(examples, max_tokens)

    monkeypatch.setattr(evaluation, "evaluation_batches", spy)
    return budgets
