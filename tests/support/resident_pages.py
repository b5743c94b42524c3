"""How much of a mapped file is in this process's page table."""

from __future__ import annotations

from pathlib import Path


def resident(of: str) -> int:
    """Returns the resident bytes of this process's mappings of a file whose path ends with `of`."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(of)
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
