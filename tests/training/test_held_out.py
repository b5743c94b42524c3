"""Scoring held-out rows changes nothing of a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_ranks import Rows, longest_first, run_of, tiny

from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.training.held_out import score_held_out
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
