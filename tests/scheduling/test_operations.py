"""Operations of trials and jobs, by hand."""

from __future__ import annotations

import pytest

from xlmr_sweep.modeling.architecture import KNOWN
from xlmr_sweep.scheduling.operations import Operations
from xlmr_sweep.study.reading import load_study

PAPER = load_study("paper")
BASE = KNOWN["FacebookAI/xlm-roberta-base"]
TASKS = [task.name for task in PAPER.tasks]


def operations(mixture_rows: int | None = None) -> Operations:
    return Operations(PAPER, {"xlmr-base": BASE}, {"cb": 10}, mixture_rows)


def test_a_trial_counts_three_passes_a_training_step_and_one_an_evaluation_row() -> None:
    spec = PAPER.finetune
    each = spec.max_length * BASE.encoder_flops_per_token(spec.max_length)
    assert operations().trial("xlmr-base", "cb", 4) == pytest.approx((3 * spec.steps * 4 + 10) * each)
    assert operations().trial("xlmr-base", "cb", 64) == operations().trial("xlmr-base", "cb", spec.batch_size)
    assert operations().trial("xlmr-large", "cb", 4) == 0, "its shape is not known"


def test_the_mean_over_a_models_trials_is_one() -> None:
    found = [operations().relative("xlmr-base", task, size) for task in TASKS for size in PAPER.sizes]
    assert sum(found) / len(found) == pytest.approx(1)
    assert operations().relative("xlmr-large", "cb", 4) == 1


def test_a_job_counts_three_passes_a_row_of_every_epoch() -> None:
    recipe = PAPER.instruct
    length = min(recipe.max_length, BASE.positions - 2)
    wanted = 3 * 1000 * recipe.epochs * length * BASE.encoder_flops_per_token(length)
    assert operations(1000).job("xlmr-base") == pytest.approx(wanted)
    assert operations().job("xlmr-base") == 0, "the number of rows is not known"
