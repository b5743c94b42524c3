"""No two purposes of a seed share numbers."""

from __future__ import annotations

from xlmr_sweep.training.seeds import derived_seed


def test_streams_of_a_seed_differ() -> None:
    assert len({derived_seed(seed, purpose) for seed in range(3) for purpose in ("head", "order", "dropout")}) == 9
