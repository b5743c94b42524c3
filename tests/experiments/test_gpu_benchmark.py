"""The pure pieces of `benchmark.py gpu`, and what it says where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="module")
def shapes() -> Iterator[Any]:
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        from benchmarks.gpu_parts import shapes

        yield shapes
    finally:
        sys.path.remove(str(EXPERIMENTS))


def test_batches_are_as_long_as_sixteen_prompts_of_cb(shapes: Any) -> None:
    lengths = shapes.cb_lengths()
    assert (len(lengths), sum(lengths), max(lengths)) == (16, 16 * 96, 207)
    assert [len(example.input_ids) for example in shapes.random_examples(lengths, 100)] == lengths


def test_memory_is_predicted_of_the_shape_that_runs(shapes: Any) -> None:
    from benchmarks.gpu_parts.part_memory import predict

    for name in ("base", "large"):
        config = shapes.config_of(shapes.SHAPES[name])
        assert (config.num_hidden_layers, config.hidden_size) == (shapes.SHAPES[name].num_layers, shapes.SHAPES[name].hidden)
    assert predict("base", 1536) < predict("large", 1536) < predict("XL", 2048) < 75e9


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_2() -> None:
    command = [sys.executable, str(EXPERIMENTS / "benchmark.py"), "gpu", "--part", "step"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert run.stderr.strip().endswith("Error: no CUDA GPU here")


def test_every_run_that_is_kept_names_card_date_and_commit() -> None:
    for path in sorted((EXPERIMENTS / "benchmarks" / "gpu_runs").glob("*.json")):
        run = json.loads(path.read_text())
        assert run["card"]["name"].startswith("NVIDIA"), path
        assert path.stem.removeprefix("gpu-").startswith(run["card"]["at"][:10]), path
        assert run["commit"], path
        assert run["parts"], path
