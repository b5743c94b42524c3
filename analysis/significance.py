"""Whether a difference could be chance. In: one value per pair of trials. Out: p values of a paired permutation test.

A pair has the same model, task and seed, so the same few-shot examples. Under the null hypothesis its two paradigms can be
swapped. A swap turns an IPR r into 1 / (1 + r) - 1. So the test statistic is the mean of r / (2 + r) = (f - g) / (f + g), which
only changes its sign. An advantage only changes its sign anyway. Three seeds have 8 sign patterns, so no p below 0.25. So a cell
is tested only if p < 0.05 can be reached. The evidence is in the rows that pool seeds and tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.schema import AVERAGE, Table, as_frame

MAX_EXACT = 16
NUM_FLIPS = 9_999
ALPHA = 0.05
# Sign patterns are drawn in batches of so many values: 64 MB as float64.
BATCH_VALUES = 8_000_000


def sign_flip_test(values: np.ndarray) -> float:
    """Returns the two-sided p value of the mean of paired differences under random signs (`sign_flip_tests`)."""
    return float(sign_flip_tests([values])[0])


def sign_flip_tests(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the two-sided p values of the means of paired differences under random signs.

    Up to n = 16 all 2^n sign patterns are counted. Beyond that, 9,999 random patterns and the observed one are. Samples of
    similar length are filled up with zeros, which changes no sum, and share their patterns. So a million rows take seconds.

    Args:
        samples: (n,) differences each. A difference changes its sign when its pair is swapped.

    Returns:
        (num_samples,); NaN for an empty sample.
    """
    p_values = np.full(len(samples), np.nan)
    lengths = np.array([len(sample) for sample in samples])
    shared = np.where(lengths <= MAX_EXACT, lengths, 2 ** np.ceil(np.log2(np.maximum(lengths, 1)))).astype("int64")
    for length in np.unique(shared[lengths > 0]):
        chosen = np.flatnonzero(shared == length)
        per_batch = max(1, BATCH_VALUES // 2 ** min(length, MAX_EXACT))
        for batch in np.split(chosen, range(per_batch, len(chosen), per_batch)):
            filled = np.zeros((length, len(batch)))
            for column, number in enumerate(batch):
                filled[: lengths[number], column] = samples[number]
            p_values[batch] = _share_as_extreme(filled)
    return p_values


def _share_as_extreme(samples: np.ndarray) -> np.ndarray:
    """Returns the share of sign patterns whose sums are as far from 0 as the observed ones, for columns of (n, num_samples)."""
    # Sums that differ only by the order of additions must count as equal.
    observed = np.abs(samples.sum(axis=0)) - 1e-9 * np.abs(samples).sum(axis=0)
    n = len(samples)
    if n <= MAX_EXACT:
        return np.asarray(np.mean(np.abs(_all_signs(n) @ samples) >= observed, axis=0))
    rng = np.random.default_rng(n)
    extreme, left = np.ones(samples.shape[1]), NUM_FLIPS
    while left:
        size = min(left, max(1, BATCH_VALUES // max(samples.shape)))
        signs = 1.0 - 2.0 * rng.integers(0, 2, (size, n), dtype="int8")
        extreme += np.sum(np.abs(signs @ samples) >= observed, axis=0)
        left -= size
    return np.asarray(extreme / (NUM_FLIPS + 1))


@lru_cache(maxsize=4)
def _all_signs(n: int) -> np.ndarray:
    """Returns every pattern of signs, (2^n, n). It takes 8 MB at most."""
    return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def smallest_p(n: int) -> float:
    """Returns the smallest p value that `sign_flip_test` can give for n pairs."""
    return 2.0 / 2**n if n <= MAX_EXACT else 1.0 / (NUM_FLIPS + 1)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns p values after Holm's correction over all that are not NaN."""
    corrected = np.full(len(p_values), np.nan)
    ascending = np.argsort(p_values)[: np.sum(~np.isnan(p_values))]
    num_left = np.arange(len(ascending), 0, -1)
    corrected[ascending] = np.minimum(1.0, np.maximum.accumulate(num_left * p_values[ascending]))
    return corrected


def antisymmetric(ipr: np.ndarray) -> np.ndarray:
    """Returns (f - g) / (f + g) of IPR values in percentage points. If f and g are swapped, it only changes its sign."""
    ratio = ipr / 100
    return np.asarray(ratio / (2 + ratio))


def with_tests(table: Table, per_seed: Table, value: str) -> pd.DataFrame:
    """Returns a pooled table with `p_smallest`, `p` and `p_holm`.

    `p` is empty if so few pairs cannot give a p below 0.05. `p_smallest` is the smallest p that they can give. `p_holm` is
    corrected over all tests of a comparison.

    Args:
        table: rows by `comparison`, `model` and `task`, as `analysis.pooling.pooled` returns them.
        per_seed: the values, with `used`.
        value: `ipr` (percentage points) or `advantage` (examples).
    """
    frame, values = as_frame(table), as_frame(per_seed)
    values = values[values["used"].astype(bool)]
    differences = values[value].to_numpy(dtype="float64")
    values = values.assign(difference=antisymmetric(differences) if value == "ipr" else differences)
    samples = {key: part["difference"].to_numpy() for key, part in values.groupby(["comparison", "model", "task"])}
    for (comparison, model), part in values.groupby(["comparison", "model"]):
        samples[comparison, model, AVERAGE] = part["difference"].to_numpy()
    keys = list(zip(frame["comparison"], frame["model"], frame["task"], strict=True))
    sizes = [len(samples.get(key, ())) for key in keys]
    reachable = np.array([smallest_p(n) if n else np.nan for n in sizes])
    testable = np.flatnonzero(reachable < ALPHA)
    p_values = np.full(len(keys), np.nan)
    p_values[testable] = sign_flip_tests([samples[keys[number]] for number in testable])
    tested = frame.assign(p_smallest=reachable, p=p_values)
    corrected = tested.groupby("comparison")["p"].transform(lambda p: holm(p.to_numpy()))
    return tested.assign(p_holm=corrected.astype("float64"))
