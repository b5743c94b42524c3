"""Memory by arithmetic against what runs on a GPU reserved, kept as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xlmr_sweep.modeling.architecture import KNOWN, Architecture
from xlmr_sweep.modeling.gpu.footprint import COPY_BYTES, footprint
from xlmr_sweep.modeling.memory import compacted, gpu_bytes_needed, gpus_needed
from xlmr_sweep.study.recipes import FinetuneSpec

RUN = Path(__file__).parents[3] / "experiments" / "benchmarks" / "gpu_runs" / "gpu-2026-11-27-123818.json"
SHAPES = {
    "22M": Architecture(6, 384, 1536, 6144, 512, 2, heads=12),
    "base": Architecture(12, 768, 3072, 6144, heads=12),
    "large": Architecture(24, 1024, 4096, 6144, heads=16),
}


@pytest.mark.parametrize("name", SHAPES)
def test_arithmetic_is_within_a_tenth_of_what_an_h100_reserved(name: str) -> None:
    rows = {row["shape"]: row for row in json.loads(RUN.read_text())["parts"]["step"]["rows"]}
    predicted = footprint(SHAPES[name], 1536, 4608).total
    assert predicted == pytest.approx(rows[name]["peak_reserved_bytes"], rel=0.1)


def test_parts_of_a_tiny_shape_by_hand() -> None:
    shape = Architecture(2, 8, 16, 30, 10, 1, heads=2)
    found = footprint(shape, 10, 0)
    weights = 4 * shape.num_parameters
    assert found.states == 4 * weights + (weights - 4 * 41 * 8) / 2 + weights
    kept, work, chain = (22 * 8 + 4 * 16 + 8) + 6 * 8, 38 * 8 + 4 * 16, 2 * (72 + 16) + 48
    assert found.pool == 10 * (kept + work) + 4 * 264 * chain


def test_large_weights_have_no_second_copy() -> None:
    shape = compacted(KNOWN["facebook/xlm-roberta-xl"], 32_768)
    assert 4 * shape.num_parameters > COPY_BYTES
    assert footprint(shape, 1, 1).states < 4.5 * 4 * shape.num_parameters


def test_xl_fits_one_gpu_of_80_gb_and_xxl_four() -> None:
    spec = FinetuneSpec()
    needed = {name: gpus_needed(compacted(shape, 32_768), spec, "bf16") for name, shape in KNOWN.items()}
    assert list(needed.values()) == [1, 1, 1, 4]
    assert gpu_bytes_needed(SHAPES["base"], spec, "fp32", 1) != gpu_bytes_needed(SHAPES["base"], spec, "bf16", 1)
