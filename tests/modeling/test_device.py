"""What a process may use of its device, and what it used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S

from xlmr_sweep.modeling import device
from xlmr_sweep.modeling.device import DeviceUse, limit_memory

GIB = 2**30


def test_a_fraction_is_enforced_on_a_gpu_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[float, torch.device]] = []

    class Properties:
        total_memory = 80 * GIB

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: limits.append((share, device)))
    gpu = torch.device("cuda", 0)
    limit_memory(torch.device("cpu"), 0.25)
    limit_memory(gpu, 1.0)
    assert limits == []
    limit_memory(gpu, 0.25)
    ((fraction, device),) = limits
    assert device == gpu
    # Four allocators and four contexts fit together.
    assert 4 * (fraction * 80 * GIB + 600 * 2**20) <= 80 * GIB * (1 + 1e-9)
    assert fraction > 0.24


def test_use_of_a_cpu_is_its_cores_and_the_machines_memory() -> None:
    with DeviceUse(torch.device("cpu")) as use:
        sum(i * i for i in range(300_000))
    assert 0 < use.columns["device_busy"] < 64
    assert use.columns["device_memory_bytes"] > 2**28


@pytest.mark.parametrize(("limit", "wanted"), [("1073741824", GIB), ("max", None), ("9223372036854771712", None)])
def test_a_container_has_no_more_memory_than_its_limit(
    limit: str, wanted: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "MEMORY_LIMITS", ())
    whole = device.machine_memory()
    (tmp_path / "memory.max").write_text(limit + "\n")
    monkeypatch.setattr(device, "MEMORY_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert device.machine_memory() == (wanted or whole)


def test_use_of_a_gpu_is_the_mean_of_what_nvml_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80 * GIB

    said, all_said = iter([20, 40]), threading.Event()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    monkeypatch.setattr(device, "BUSY_INTERVAL_S", 0.001)

    def utilization(which: torch.device) -> int:
        try:
            return next(said)
        except StopIteration:
            all_said.set()
            raise ModuleNotFoundError("nvml is gone") from None

    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    with DeviceUse(torch.device("cuda", 0)) as use:
        assert all_said.wait(PATIENCE_S)
    assert use.columns == {"device_memory_bytes": 80 * GIB, "device_busy": pytest.approx(0.3)}
