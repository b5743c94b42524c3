"""Times on a known card: the measured shapes themselves, other shapes by operations, gangs and instruction jobs by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xlmr_sweep.modeling.architecture import KNOWN
from xlmr_sweep.modeling.memory import ASSUMED_ROWS, compacted
from xlmr_sweep.scheduling.speeds import H100, INSTRUCTION_TOKENS, PROMPT_TOKENS, MeasuredStep
from xlmr_sweep.study.recipes import FinetuneSpec, InstructSpec

BASE, LARGE = KNOWN["FacebookAI/xlm-roberta-base"], KNOWN["FacebookAI/xlm-roberta-large"]
XL, XXL = KNOWN["facebook/xlm-roberta-xl"], KNOWN["facebook/xlm-roberta-xxl"]
SPEC = FinetuneSpec(steps=100, batch_size=16, max_length=256)


@pytest.mark.parametrize("measured", H100.steps, ids=["22M", "base", "large", "XL"])
def test_a_measured_step_is_told_as_it_was_measured(measured: MeasuredStep) -> None:
    assert H100.step_s(measured.shape, measured.num_tokens, measured.length) == pytest.approx(measured.step_s)
    assert 0 < H100.share_of_peak(measured.shape) < 0.6
    assert 0 < measured.setup_s < 0.1


def test_another_shape_takes_the_share_of_peak_of_the_nearest() -> None:
    assert [H100.nearest(shape).shape.hidden for shape in (BASE, LARGE, XL, XXL)] == [768, 1024, 2560, 2560]
    assert H100.nearest(replace(BASE, num_layers=2)).shape.hidden == 384
    deeper = replace(H100.steps[1].shape, num_layers=15)
    products, both = (H100.step_s(shape, 3000, 96) - H100.step_s(shape, 1000, 96) for shape in (H100.steps[1].shape, deeper))
    assert both == pytest.approx(15 / 12 * products), "as many more layers, as many more operations"


def test_a_trial_is_its_steps_its_evaluation_and_its_setup() -> None:
    shape = compacted(BASE, ASSUMED_ROWS)
    steps = 100 * H100.step_s(shape, 4 * PROMPT_TOKENS, PROMPT_TOKENS)
    nothing = H100.trial_s(BASE, SPEC, 4, 0)
    assert nothing == pytest.approx(steps + H100.steps[1].setup_s)
    evaluation = 1000 * PROMPT_TOKENS * shape.encoder_flops_per_token(PROMPT_TOKENS) / H100.flops_s(H100.steps[1])
    assert H100.trial_s(BASE, SPEC, 4, 1000) - nothing == pytest.approx(evaluation)
    assert H100.trial_s(BASE, SPEC, 128, 0) == H100.trial_s(BASE, SPEC, 16, 0), "no more than a batch a step"
    short = SPEC.model_copy(update={"max_length": 32})
    assert H100.trial_s(BASE, short, 16, 0) < H100.trial_s(BASE, SPEC, 16, 0)


def test_a_gang_shares_the_work_and_waits_for_the_exchange() -> None:
    shape = compacted(XXL, ASSUMED_ROWS)
    alone = H100.step_s(shape, 1536, 96)
    layers = shape.num_layers * shape.layer_parameters
    assert H100.step_s(shape, 1536, 96, 4) == pytest.approx(alone / 4 + 3 / 4 * 8 * layers / H100.link_bytes_s)
    small = compacted(LARGE, ASSUMED_ROWS)
    layers = small.num_layers * small.layer_parameters
    expected = H100.step_s(small, 1536, 96) / 2 + 1 / 2 * 6 * layers / H100.link_bytes_s
    assert H100.step_s(small, 1536, 96, 2) == pytest.approx(expected), "its weights stay gathered"


def test_an_instruction_job_takes_the_assumed_share_of_the_peak() -> None:
    recipe = InstructSpec()
    head = 2 * (BASE.hidden**2 + BASE.hidden * BASE.vocabulary)
    each = BASE.encoder_flops_per_token(INSTRUCTION_TOKENS) + recipe.mask_rate * head
    assert H100.job_s(BASE, recipe, 1000, 2) == pytest.approx(3 * 1000 * INSTRUCTION_TOKENS * each / (0.4 * 989e12 * 2))
