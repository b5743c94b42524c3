"""Expected times: measured first, then by operations, then by a known card's speeds; and the paper's hours beside them."""

from __future__ import annotations

from typing import Any

import pytest

from xlmr_sweep.modeling.architecture import KNOWN
from xlmr_sweep.scheduling.cost import PAPER_COSTS, CostModel
from xlmr_sweep.scheduling.speeds import CARD
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study

PAPER = load_study("paper")
TRIALS = {(t.model, t.paradigm, t.task, t.train_size, t.seed): t for t in expand(PAPER)}


def trial(model: str = "xlmr-base", task: str = "cb", size: int = 16, paradigm: str = "prompted", seed: int = 0) -> Trial:
    return TRIALS[model, paradigm, task, size, seed]


def paper_cost(**options: Any) -> CostModel:
    return CostModel.of(PAPER, Storage("/nowhere/at/all"), **options)


def test_unmeasured_models_take_what_a_known_card_takes_whatever_their_share() -> None:
    cost = paper_cost()
    for model in PAPER.models:
        mine = [t for t in TRIALS.values() if t.model == model.name]
        assert {cost.trial(t, 1).source for t in mine} == {"card"}
        assert {cost.trial(t, 4).source for t in mine} == {"gang"}
        work = [sum(amount * cost.trial_s(t, amount) for t in mine) for amount in (0.25, 1.0)]
        assert work[0] == pytest.approx(work[1])
    expected = CARD.trial_s(KNOWN["facebook/xlm-roberta-xxl"], PAPER.finetune, 16, 56, 4)
    assert cost.trial_s(trial("xlmr-xxl"), 4) == pytest.approx(expected)
    job = cost.job("xlmr-xxl", 8)
    assert job.source == "share"
    assert cost.job("xlmr-xxl", 16).seconds == pytest.approx(job.seconds / 2)


def test_the_papers_hours_are_told_beside_and_used_where_the_card_says_nothing() -> None:
    fp32 = PAPER.replaced(
        finetune=PAPER.finetune.model_copy(update={"precision": "fp32"}),
        instruct=PAPER.instruct.model_copy(update={"precision": "fp32"}),
    )
    slow, known = CostModel.of(fp32, Storage("/nowhere/at/all")), paper_cost()
    for model in PAPER.models:
        mine = [t for t in TRIALS.values() if t.model == model.name]
        seconds, hours = PAPER_COSTS[str(model.hub)]
        assert sum(known.paper_s(t) or 0 for t in mine) == pytest.approx(315 * seconds)
        assert known.paper_job_s(model.name) == hours * 3600
        assert {slow.trial(t, 2).source for t in mine} == {"paper"}
        for amount in (0.25, 2.0):
            assert sum(amount * slow.trial_s(t, amount) for t in mine) == pytest.approx(315 * seconds)
    assert slow.job("xlmr-xxl", 8).seconds == 48 * 3600
    assert slow.job("xlmr-xxl", 16).seconds == 24 * 3600
    on_cpus = paper_cost(has_gpus=False)
    assert {on_cpus.trial(trial(), 1).source, on_cpus.trial(trial("xlmr-xl"), 1).source} == {"operations"}


def test_a_measured_cell_is_told_as_it_was_measured_at_any_share() -> None:
    cost = paper_cost()
    cost.observe(trial(seed=0), 0.25, 100)
    cost.observe(trial(seed=1), 0.25, 140)
    assert cost.trial(trial(seed=2, paradigm="baseline"), 0.25).source == "measured"
    assert cost.trial_s(trial(), 0.25) == pytest.approx(120)
    assert cost.trial_s(trial(), 0.5) == pytest.approx(60), "twice the share, half the time"
    # Another share that was measured itself counts before the one that was scaled.
    cost.observe(trial(), 0.5, 90)
    assert cost.trial_s(trial(), 0.5) == pytest.approx(90)
    assert cost.trial_s(trial(), 0.25) == pytest.approx(120)


def test_what_was_not_measured_follows_from_operations() -> None:
    cost = paper_cost()
    cost.observe(trial(size=16), 1, 100)
    # The same model and task at another size: 4 instead of 16 examples a step, and as many evaluation rows.
    rows = 56
    expected = 100 * (3 * 320 * 4 + rows) / (3 * 320 * 16 + rows)
    assert cost.trial(trial(size=4), 1).seconds == pytest.approx(expected)
    assert cost.trial(trial(size=4), 1).source == "scaled"
    assert cost.trial_s(trial(size=64), 1) == pytest.approx(100), "no more than a batch a step"
    # Another task: its own number of rows.
    assert cost.trial_s(trial(task="boolq"), 1) == pytest.approx(100 * (3 * 320 * 16 + 3270) / (3 * 320 * 16 + rows))
    # Another model keeps the card's figure; without a card it is scaled by its shape.
    assert cost.trial(trial("xlmr-xl"), 1).source == "card"
    shape = KNOWN["FacebookAI/xlm-roberta-large"]
    study = Study.model_validate(
        {"name": "s", "models": [{"name": n, "hub": f"x/{n}"} for n in ("a", "b")], "sizes": [16], "seeds": [0]}
    )
    other = CostModel(study, {"a": KNOWN["FacebookAI/xlm-roberta-base"], "b": shape}, has_gpus=False)
    a, b = (next(t for t in expand(study) if t.model == name and t.task == "cb") for name in "ab")
    assert other.trial(a, 1).source == "operations"
    other.observe(a, 1, 50)
    ratio = shape.encoder_flops_per_token(256) / KNOWN["FacebookAI/xlm-roberta-base"].encoder_flops_per_token(256)
    assert other.trial(b, 1).seconds == pytest.approx(50 * ratio)
    assert other.trial(b, 1).source == "scaled"
    assert CostModel(study, {}).trial(a, 1).source == "unknown"


def test_a_job_that_was_measured_tells_of_the_others() -> None:
    study = PAPER.replaced(instruct=PAPER.instruct.model_copy(update={"max_steps": 1000}))
    cost = CostModel.of(study, Storage("/nowhere/at/all"))
    cost.observe_job("xlmr-base", 2, 1000)
    assert cost.job("xlmr-base", 4).seconds == 500
    shapes = [
        KNOWN[name].encoder_flops_per_token(512) for name in ("FacebookAI/xlm-roberta-large", "FacebookAI/xlm-roberta-base")
    ]
    assert cost.job("xlmr-large", 2).seconds == pytest.approx(1000 * shapes[0] / shapes[1])


def test_what_was_told_of_a_job_is_told_anew_after_each_measurement() -> None:
    study = PAPER.replaced(instruct=PAPER.instruct.model_copy(update={"max_steps": 1000}))
    cost = CostModel.of(study, Storage("/nowhere/at/all"), has_gpus=False)
    told = [cost.job("xlmr-large", 2)]
    cost.observe(trial(), 1, 100)
    told.append(cost.job("xlmr-large", 2))
    # So little that no queue is sorted again.
    cost.observe(trial(seed=1), 1, 101)
    told.append(cost.job("xlmr-large", 2))
    cost.observe_job("xlmr-base", 2, 1000)
    told.append(cost.job("xlmr-large", 2))
    cost.observe_job("xlmr-large", 2, 1000)
    told.append(cost.job("xlmr-large", 2))
    assert [estimate.source for estimate in told] == ["operations", "scaled", "scaled", "scaled", "measured"]
    assert len({estimate.seconds for estimate in told}) == 5
    assert cost.job("xlmr-large", 4).seconds == 500


def test_estimates_that_hardly_move_cause_no_new_order() -> None:
    cost = paper_cost()
    cost.observe(trial(), 1, 100)
    version = cost.version
    cost.observe(trial(seed=1), 1, 101)
    assert cost.version == version
    cost.observe(trial(seed=2), 1, 200)
    assert cost.version > version


def test_rows_without_a_time_or_of_models_that_are_gone_say_nothing() -> None:
    cost = paper_cost(
        rows=[
            {**trial().as_dict(), "num_gpus": 0.25, "total_time_s": 40.0},
            {**trial("xlmr-xl").as_dict(), "num_gpus": 2.0},
            {**trial().as_dict(), "model": "gone", "num_gpus": 1.0, "total_time_s": 5.0},
        ]
    )
    assert cost.trial_s(trial(), 0.25) == pytest.approx(40)
    assert cost.trial(trial("xlmr-xl"), 1).source == "card"


def test_zero_shot_trials_take_next_to_nothing_whatever_was_measured() -> None:
    study = PAPER.replaced(sizes=[0, 16])
    untrained, trained = (
        next(t for t in expand(study) if (t.model, t.paradigm, t.task, t.train_size) == ("xlmr-base", "prompted", "cb", size))
        for size in (0, 16)
    )
    cost = CostModel.of(study, Storage("/nowhere/at/all"))
    assert 0 < cost.trial_s(untrained, 1) < 0.1 * cost.trial_s(trained, 1)
    cost.observe(untrained, 1, 1)
    assert cost.trial(untrained, 1).source == "measured"
    assert cost.trial_s(trained, 1) > 100, "scaled by operations"
    cost.observe(trained, 1, 50)
    assert (cost.trial_s(untrained, 1), cost.trial_s(trained, 1)) == (1, 50)
