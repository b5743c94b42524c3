"""Instruction rows of the demo world: families by their weights, and as many yes as no."""

from collections import Counter

import pytest

from xlmr_sweep.data.demo import instruction_rows
from xlmr_sweep.data.demo.instructions import FAMILIES, NUM_ROWS


def test_every_family_is_drawn_by_its_weight_and_wordings_differ_from_the_prompts() -> None:
    rows = instruction_rows(2)
    assert len(rows) == NUM_ROWS
    drawn = Counter(row["family"] for row in rows)
    total = sum(weight for _, weight in FAMILIES.values())
    for family, (_, weight) in FAMILIES.items():
        assert drawn[family] / NUM_ROWS == pytest.approx(weight / total, rel=0.15)
    assert {"yes", "no", "maybe"} < {row["targets"] for row in rows}
    for phrase in ("does this imply that", "more likely", "same meaning in both", "Question:"):
        assert not any(phrase in row["inputs"] for row in rows)


def test_half_of_the_yes_no_questions_of_a_family_are_yes() -> None:
    for family in ("fitting", "reading", "sense"):
        answers = [row["targets"] == "yes" for row in instruction_rows(2) if row["family"] == family]
        assert sum(answers) / len(answers) == pytest.approx(0.5, abs=0.04)
