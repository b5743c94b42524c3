"""Seeds of the random numbers of a run: one for each purpose, so that no two draws share numbers."""

from __future__ import annotations

import hashlib

import numpy as np


def derived_seed(seed: int, purpose: str) -> int:
    """Returns the 63-bit seed of one purpose of a trial (head, order, dropout), from the trial's own seed."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "big") >> 1


def mixed_seed(*parts: int) -> int:
    """Returns a 63-bit seed that is named by whole numbers and unrelated to the seeds of other names."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
