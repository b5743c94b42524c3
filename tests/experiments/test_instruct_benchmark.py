"""`benchmark.py instruct`: the padding of both ways that need no run, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xlmr_sweep.training.masking import Masked

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def rows_of(*lengths: int) -> list[Masked]:
    return [
        Masked(np.zeros(length, dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 0)
        for length in lengths
    ]


def test_padding_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from benchmarks.instruct import packed_share, padded_share

    # 500 and 6 tokens; then rows of 100, 60 and 40 tokens in passes of at most 200 padded places: 2 x 100, then 40.
    steps = [rows_of(500, 6), rows_of(100, 60, 40)]
    assert padded_share(steps, 200) == pytest.approx((0 + 40) / (706 + 40))
    # Packed for a GPU each step is one micro-batch of a multiple of 512 places, which has a slot of filler: 512 each.
    assert packed_share(steps, 512, 512) == pytest.approx(1 - 706 / (512 + 512))
