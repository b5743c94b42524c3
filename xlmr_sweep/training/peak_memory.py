"""The peak of a process's memory over a trial: of the GPU's allocator, or of the process's own pages on a CPU."""

from __future__ import annotations

import ctypes
import logging
import resource
from pathlib import Path

import torch

log = logging.getLogger("xlmr_sweep.trial")


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new measurement of the process's peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        # The allocator keeps what earlier trials freed. It is not this trial's. (glibc; other C libraries have no such call.)
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        log.debug("freed memory is not given back to the system here")
    try:
        # 5 resets the peak resident size (Linux: proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory(device: torch.device) -> int:
    """Returns the peak since `reset_peak_memory`, in bytes: of the GPU's allocator, or of the process's own memory.

    Own memory is what no other process shares. Libraries, and weights that a node holds once, are left out at their present size.
    """
    if device.type == "cuda":
        # Reserved, not allocated: a CUDA graph's activations lie in a pool that counts as unused after its capture.
        return int(torch.cuda.max_memory_reserved(device))
    try:
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        sizes = {words[0]: int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
        return sizes["VmHWM:"] - sizes["RssFile:"] - sizes["RssShmem:"]
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
