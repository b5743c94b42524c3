"""Examples of the demo's tasks: their fields, their classes, and no prompt twice."""

from collections import Counter

import pytest

from xlmr_sweep.data.demo import task_rows
from xlmr_sweep.data.demo.examples import NUM_TRAIN, NUM_VALIDATION
from xlmr_sweep.study.tasks import TASKS, render


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
