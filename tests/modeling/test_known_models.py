"""Shapes that are known without files: against what was published, and what a compact vocabulary leaves of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlmr_sweep.modeling.architecture import KNOWN, Architecture
from xlmr_sweep.modeling.known_models import KNOWN_CONFIGS
from xlmr_sweep.modeling.memory import ASSUMED_ROWS, compacted, gpu_bytes_needed
from xlmr_sweep.scheduling.speeds import CARD, PROMPT_TOKENS, instruction_flops
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.recipes import FinetuneSpec, InstructSpec

TRIAL = FinetuneSpec(precision="bf16")


def shape(hub: str) -> Architecture:
    found = KNOWN.get(hub) or Architecture.from_config(KNOWN_CONFIGS[hub])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("hub", "millions", "body_millions"),
    [
        ("jhu-clsp/mmBERT-small", 140, 42),
        ("jhu-clsp/mmBERT-base", 307, 110),
        ("answerdotai/ModernBERT-base", 149, None),
        ("google-bert/bert-base-uncased", 110, None),
        ("FacebookAI/roberta-base", 125, None),
    ],
)
def test_parameters_are_those_that_were_published(hub: str, millions: int, body_millions: int | None) -> None:
    found = shape(hub)
    assert found.exact
    assert found.num_parameters == pytest.approx(millions * 1e6, rel=0.01)
    assert body_millions is None or found.num_body_parameters == pytest.approx(body_millions * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("facebook/xlm-v-base", "FacebookAI/xlm-roberta-base"),
        ("cis-lmu/glot500-base", "FacebookAI/xlm-roberta-base"),
        ("jhu-clsp/mmBERT-base", "answerdotai/ModernBERT-base"),
    ],
)
def test_with_a_compact_vocabulary_a_large_one_costs_nothing(large: str, small: str) -> None:
    """Trials of XLM-V (902k rows) and mmBERT (256k) take what their layers take: the memory and time of a smaller vocabulary."""
    whole, compact, other = shape(large), compacted(shape(large), ASSUMED_ROWS), compacted(shape(small), ASSUMED_ROWS)
    assert whole.vocabulary > 5 * ASSUMED_ROWS
    assert compact.num_parameters == pytest.approx(other.num_parameters, rel=1e-3)
    for cost in (
        lambda of: gpu_bytes_needed(of, TRIAL, "bf16", 1),
        lambda of: CARD.step_s(of, TRIAL.batch_size * PROMPT_TOKENS, TRIAL.batch_size),
    ):
        assert cost(compact) == pytest.approx(cost(other), rel=1e-3)
        assert cost(whole) > 1.15 * cost(compact)


def test_a_plan_of_the_study_encoders_knows_every_shape() -> None:
    study = load_study("encoders")
    families = {shape(str(model.hub)).model_type for model in study.models}
    assert len(study.models) == 12
    assert families == {"xlm-roberta", "modernbert", "eurobert", "bert", "roberta"}
    assert all(shape(str(model.hub)).is_fast for model in study.models)


def test_the_table_of_the_page_is_that_of_the_code() -> None:
    """`docs/own-study.md`: rows, parameters, and what a trial and an instruction job take, beside XLM-R base."""
    hubs = {
        "XLM-R base": "FacebookAI/xlm-roberta-base",
        "Glot500": "cis-lmu/glot500-base",
        "XLM-V": "facebook/xlm-v-base",
        "ModernBERT base": "answerdotai/ModernBERT-base",
        "mmBERT base": "jhu-clsp/mmBERT-base",
    }
    page = (Path(__file__).parents[2] / "docs" / "own-study.md").read_text(encoding="utf-8")
    base = instruction_flops(shape(hubs["XLM-R base"]), InstructSpec(), 1.0)
    for name, hub in hubs.items():
        found = shape(hub)
        taken = [gpu_bytes_needed(of, TRIAL, "bf16", 1) / 1e9 for of in (compacted(found, ASSUMED_ROWS), found)]
        cells = [f"{found.vocabulary:,}", f"{found.num_parameters / 1e6:.1f}", f"{found.num_body_parameters / 1e6:.1f}"]
        cells += [f"{value:.1f}" for value in taken] + [f"{instruction_flops(found, InstructSpec(), 1.0) / base:.3g}"]
        assert f"| {name} | {' | '.join(cells)} |" in page, name
