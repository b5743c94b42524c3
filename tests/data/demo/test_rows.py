"""Rows of the demo world: shape, balance and determinism. Run with `pytest tests/data/demo/test_rows.py`."""

import hashlib
import json
import subprocess
import sys
from collections import Counter

import pytest

from xlmr_sweep.data.demo import instruction_rows, pretraining_texts, task_rows
from xlmr_sweep.data.demo.examples import NUM_TRAIN, NUM_VALIDATION
from xlmr_sweep.data.demo.instructions import FAMILIES, NUM_ROWS
from xlmr_sweep.study.tasks import TASKS, render

DIGEST = """
import hashlib, json
from xlmr_sweep.data.demo import instruction_rows, pretraining_texts, task_rows
made = [pretraining_texts(5, 300), instruction_rows(5, 300), [task_rows(t, 5) for t in ("boolq", "cb", "copa", "rte", "wic")]]
print(hashlib.sha256(json.dumps(made).encode()).hexdigest())
"""


@pytest.mark.parametrize("task", sorted(TASKS))
def test_rows_have_the_fields_of_the_task_and_every_class_its_share(task: str) -> None:
    for split, count in (("train", NUM_TRAIN), ("validation", NUM_VALIDATION)):
        rows = task_rows(task, 3)[split]
        assert [row["idx"] for row in rows] == list(range(count))
        assert all(set(row) == {*TASKS[task].fields, "idx", "label"} for row in rows)
        shares = Counter(row["label"] for row in rows)
        expected = {0: 0.4, 1: 0.4, 2: 0.2} if task == "cb" else {0: 0.5, 1: 0.5}
        assert {label: share / count for label, share in shares.items()} == pytest.approx(expected)
        prompts = [render(TASKS[task].prompt, row) for row in rows]
        assert len(set(prompts)) == count


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="no task 'mnli'"):
        task_rows("mnli", 0)


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


def test_another_process_with_another_hash_seed_makes_the_same_bytes() -> None:
    made = [pretraining_texts(5, 300), instruction_rows(5, 300), [task_rows(task, 5) for task in sorted(TASKS)]]
    command = [sys.executable, "-c", DIGEST]
    other = subprocess.run(command, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True).stdout
    assert other.strip() == hashlib.sha256(json.dumps(made).encode()).hexdigest()


def test_fewer_texts_are_the_first_of_more() -> None:
    assert pretraining_texts(4, 20) == pretraining_texts(4, 40)[:20]
    assert instruction_rows(4, 20) == instruction_rows(4, 40)[:20]
    assert pretraining_texts(4, 20) != pretraining_texts(5, 20)
