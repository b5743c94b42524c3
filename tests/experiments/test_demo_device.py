"""What the demo runs on: the rule, what it says, and what Ray sees then. A stand-in takes the times."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from warm_process import run_warm

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def demo_device(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    # What is set here is put back after the test.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return importlib.import_module("demo_device")


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    (tmp_path / "nvidia0").touch()
    return tmp_path


def said(demo_device: Any, measure: Callable[[], Any], devices: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    demo_device.pick(console, measure, devices)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_gpu_that_is_faster_than_all_cores_is_used_and_said(demo_device: Any, devices: Path) -> None:
    line = said(demo_device, lambda: demo_device.Measured(0.008, 0.0015, num_cpus=4, num_gpus=1), devices)
    assert line == "Demo on 4 cores at 8.0 ms a step each or 1 GPU at 1.5 ms: the GPU is faster and is used\n"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_gpu_that_is_slower_than_all_cores_is_hidden_and_said(demo_device: Any, devices: Path) -> None:
    """A step is sooner done on the GPU, but four trials at once are not."""
    line = said(demo_device, lambda: demo_device.Measured(0.008, 0.003, num_cpus=4, num_gpus=1), devices)
    assert line == "Demo on 4 cores at 8.0 ms a step each or 1 GPU at 3.0 ms: the CPU is faster and is used\n"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_two_gpus_count_twice(demo_device: Any) -> None:
    assert demo_device.Measured(0.008, 0.003, num_cpus=4, num_gpus=2).is_gpu_faster


def test_where_there_is_no_gpu_nothing_is_measured_or_said(demo_device: Any, tmp_path: Path) -> None:
    assert said(demo_device, lambda: pytest.fail("measured"), tmp_path) == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_hidden_gpus_are_not_measured(demo_device: Any, devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert said(demo_device, lambda: pytest.fail("measured"), devices) == ""


@pytest.mark.parametrize("error", [subprocess.CalledProcessError(1, "x"), subprocess.TimeoutExpired("x", 1), ValueError()])
def test_where_torch_cannot_use_the_gpu_the_cpu_is_used(demo_device: Any, devices: Path, error: Exception) -> None:
    def fails() -> Any:
        raise error

    assert said(demo_device, fails, devices) == "Demo on the CPU: torch cannot use this machine's GPU\n"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_child_without_a_gpu_fails_and_the_step_runs_on_a_cpu(demo_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", run_warm)
    with pytest.raises(subprocess.CalledProcessError):
        demo_device.in_child()
    assert demo_device.step_s("cpu") > 0
