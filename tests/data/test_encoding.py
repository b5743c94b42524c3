"""Bare texts lose only their long field; batches take what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from xlmr_sweep.data.encoding import encode_task, evaluation_batches, training_batches
from xlmr_sweep.study.tasks import BOOLQ, COPA, WIC, TaskSpec


@pytest.fixture
def tokenizer(encoder_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(encoder_folder)


@pytest.mark.parametrize(("task", "cut"), [(BOOLQ, "passage"), (COPA, "premise"), (WIC, "sentence1")])
def test_the_baseline_too_loses_only_the_long_field(tokenizer: Any, task: TaskSpec, cut: str) -> None:
    row = dict.fromkeys(task.fields, "the dog ran <mask>") | {cut: "red " * 40, "label": 0, "example_id": "0"}
    (example,) = encode_task(tokenizer, task, [row], 32, prompted=False)
    tokens = tokenizer.convert_ids_to_tokens(example.input_ids)
    assert len(tokens) <= 32
    assert tokenizer.mask_token not in tokens
    named = sum(text.count(f"{{{field}}}") for text in task.baseline for field in task.fields if field != cut)
    assert tokens.count("dog") == named
    assert 0 < tokens.count("red") < 32


def test_every_example_is_seen_equally_often_and_batches_are_full() -> None:
    batches = list(training_batches(list(range(6)), 4, 9, torch.Generator().manual_seed(0)))  # type: ignore[arg-type]
    assert [len(batch) for batch in batches] == [4] * 9
    seen = [item for batch in batches for item in batch]
    assert sorted(seen) == sorted(list(range(6)) * 6)
    small = list(training_batches([0, 1], 4, 3, torch.Generator().manual_seed(0)))  # type: ignore[arg-type]
    assert [sorted(batch) for batch in small] == [[0, 1]] * 3


def test_evaluation_takes_every_example_once_within_the_token_budget() -> None:
    class Example:
        def __init__(self, length: int) -> None:
            self.input_ids = torch.zeros(length)

    examples = [Example(length) for length in (5, 3, 9, 3, 7, 20)]
    batches = list(evaluation_batches(examples, 14))  # type: ignore[arg-type]
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches == [[1, 3], [0, 4], [2], [5]]
