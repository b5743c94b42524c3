"""What is known of GPUs by their names: the greatest number of operations a second. No torch."""

from __future__ import annotations

import re

PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}
"""Dense bf16 operations a second, by words of a card's name; the first that fits counts. Source: NVIDIA's data sheets."""


def peak_flops(name: str) -> float | None:
    """Returns the dense bf16 operations a second of a card by the name that its driver gives, None where it is not known."""
    return next((peak for word, peak in PEAK_FLOPS.items() if re.search(rf"\b{word}\b", name)), None)
