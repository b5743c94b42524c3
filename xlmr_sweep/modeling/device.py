"""The device a process computes on, and the arithmetic it can do there."""

from __future__ import annotations

import torch


def pick_device() -> torch.device:
    """Returns the GPU that this process was given, or the CPU. Ray shows a process only its own GPUs."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def resolve_precision(setting: str, device: torch.device) -> str:
    """Returns `bf16` or `fp32` for a study's `auto`, `bf16` or `fp32`.

    `auto` is bf16 only where the hardware multiplies bf16 matrices itself (tensor cores from Ampere on; AMX or AVX512-BF16);
    elsewhere bf16 is emulated and slower than fp32.
    """
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"
