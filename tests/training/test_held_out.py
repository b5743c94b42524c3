"""Scoring held-out rows changes nothing of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_ranks import Rows, longest_first, run_of, tiny

from xlmr_sweep.data.chat_rows import ChatRows, ChatShard
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.training import held_out
from xlmr_sweep.training.batches import RowOrder
from xlmr_sweep.training.held_out import num_seen, score_held_out
from xlmr_sweep.training.mlm import Run


def test_scoring_changes_no_bit_of_a_run_and_equals_plain_logits() -> None:
    from dataclasses import replace

    rows = [replace(row, num_targets=1) for row in longest_first(Rows().rows(5, range(10)))]
    models = [tiny(dropout=0.1) for _ in range(2)]

    def score(run: Run) -> None:
        told.append(score_held_out(run.root, rows, World(), "fp32", 60))  # type: ignore[arg-type]

    told: list[Any] = []
    straight, scored = (run_of(model, clip=0.3) for model in models)
    straight.train()
    scored.train(score)
    assert scored.progress.loss_curve == straight.progress.loss_curve
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    model, losses, right = tiny().eval(), [], []
    model.load_state_dict(models[1].state_dict())
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor(row.input_ids)[None]).logits[0][list(row.positions)]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels), reduction="none"))
            right.append(bool(logits[-1].argmax() == row.labels[-1]))
    assert told[-1].loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert told[-1].accuracy == sum(right) / len(right)


def chats_of(rows: list[list[int]], per_shard: int, numbers: list[int] | None = None) -> ChatRows:
    """Rows of tokens in shards."""
    shards = []
    for first in range(0, len(rows), per_shard):
        some = rows[first : first + per_shard]
        offsets = np.cumsum([0, *map(len, some)])
        shards.append(ChatShard(np.concatenate(some).astype(np.uint16), offsets, np.zeros((len(some), 4), dtype=np.uint16)))
    starts = np.cumsum([0, *(len(shard.offsets) - 1 for shard in shards)])
    return ChatRows(tuple(shards), starts, None if numbers is None else np.array(numbers))


@pytest.mark.parametrize("at_a_time", [1, 3, 4096])
def test_held_out_rows_that_are_trained_on_too_are_counted(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "HASHED_ROWS", at_a_time)
    generator = np.random.Generator(np.random.Philox(key=1))
    rows = [generator.integers(0, 3, generator.integers(1, 5)).tolist() for _ in range(60)]
    order = RowOrder.of(60, 4, 0, held_out=20)
    apart, trained = order.held_out.tolist(), {tuple(rows[i]) for i in order.taken() if i not in order.held_out}
    expected = sum(tuple(rows[i]) in trained for i in apart)
    assert 0 < expected < 20
    assert num_seen(chats_of(rows, 7), order) == expected


def test_rows_of_a_short_run_are_compared_with_those_that_it_takes() -> None:
    rows = [[place % 12, 1, place % 12] for place in range(60)]
    order = RowOrder.of(60, 4, 0, max_steps=2, held_out=10)
    taken = order.taken().tolist()
    assert len(taken) == 18
    trained = {i % 12 for i in taken if i not in order.held_out}
    expected = sum(i % 12 in trained for i in order.held_out)
    assert 0 < expected < 10
    assert num_seen(chats_of([rows[i] for i in taken], 5, taken), order) == expected
    assert num_seen(chats_of([[i] for i in taken], 5, taken), order) == 0
