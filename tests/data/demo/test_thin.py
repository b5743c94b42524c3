"""Run with `pytest tests/data/demo`."""

from xlmr_sweep.data.demo import instruction_rows, pretraining_texts, task_rows


def test_one_seed_gives_one_world() -> None:
    assert pretraining_texts(0)[:50] == pretraining_texts(0)[:50] != pretraining_texts(1)[:50]
    assert instruction_rows(0)[:50] == instruction_rows(0)[:50] != instruction_rows(1)[:50]
    assert task_rows("cb", 0) == task_rows("cb", 0) != task_rows("cb", 1)
