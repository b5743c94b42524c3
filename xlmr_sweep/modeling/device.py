"""The device a process computes on, and the arithmetic it can do there."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

CONTEXT_BYTES = 600 * 2**20
"""What a process takes of a GPU beside its allocator: CUDA's context and libraries."""

BUSY_INTERVAL_S = 0.5

MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of this container in bytes (cgroup v2, v1); `max` where it has none."""

GPU_FOLDERS = Path("/proc/driver/nvidia/gpus")
"""NVIDIA's driver has a folder here for each GPU of the machine."""


def pick_device() -> torch.device:
    """Returns the GPU that this process was given, or the CPU. Ray shows a process only its own GPUs."""
    # Before CUDA starts: without it cuBLAS may choose another algorithm, and other bits, from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def resolve_precision(setting: str, device: torch.device) -> str:
    """Returns `bf16` or `fp32` for a study's `auto`, `bf16` or `fp32`.

    `auto` is bf16 only where the hardware multiplies bf16 matrices itself (tensor cores from Ampere on; AMX or AVX512-BF16);
    elsewhere bf16 is emulated, and slower than fp32.
    """
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def limit_memory(device: torch.device, share: float) -> None:
    """Keeps this process within its share of a GPU, so that it runs out of memory itself and not its neighbours.

    Ray only counts fractions of a GPU. Nothing is limited on a CPU, or where the process has a GPU for itself.
    """
    if device.type != "cuda" or share >= 1:
        return
    total = torch.cuda.get_device_properties(device).total_memory
    # The limit concerns only the allocator, so what a process takes beside it is subtracted.
    torch.cuda.set_per_process_memory_fraction(max(share - CONTEXT_BYTES / total, share / 2), device)


class DeviceUse:
    """Measures, for the length of a block, how busy the process kept its device.

    Its `columns` hold, where known, `device_memory_bytes` (memory of the GPU, or of the machine) and `device_busy`. That is the
    share of the time in which the GPU was at work, for whichever process, or the number of CPU cores that this process kept busy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._samples: list[float] = []
        self._ended = threading.Event()
        self.columns: dict[str, Any] = {}

    def __enter__(self) -> DeviceUse:
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        if self._device.type == "cuda":
            self._sampler = threading.Thread(target=self._sample, daemon=True, name="device-use")
            self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        elapsed = max(time.monotonic() - self._began, 1e-9)
        if self._device.type != "cuda":
            self.columns = {
                "device_memory_bytes": machine_memory(),
                "device_busy": (time.process_time() - self._cpu_began) / elapsed,
            }
            return
        self._ended.set()
        self._sampler.join()
        self.columns = {"device_memory_bytes": torch.cuda.get_device_properties(self._device).total_memory}
        if self._samples:
            self.columns["device_busy"] = sum(self._samples) / len(self._samples)

    def _sample(self) -> None:
        while not self._ended.wait(BUSY_INTERVAL_S):
            busy = gpu_busy(self._device)
            if busy is None:
                return
            self._samples.append(busy)


def machine_memory() -> int:
    """Returns the bytes of memory that processes may use here: the machine's, or this container's if that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in MEMORY_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


def node_gpus(visible: int) -> int:
    """Returns the number of this machine's GPUs. Ray shows a process only its own: `visible` of them."""
    with suppress(OSError):
        return max(visible, len(list(GPU_FOLDERS.iterdir())))
    return visible


def gpu_busy(device: torch.device) -> float | None:
    """Returns the share of the last moments in which a kernel ran on a GPU; None where NVML is not there to ask."""
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # NVML raises classes of a module that may be missing, and no trial may end because of it.
        return None
