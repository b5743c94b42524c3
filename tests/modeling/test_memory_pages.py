"""Pages of memory that others hold are taken out of this process's table; what only this process holds is left alone."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from resident_pages import resident
from safetensors import safe_open
from safetensors.torch import save_file

from xlmr_sweep.modeling.memory_pages import unmap

BYTES = 32 * 2**20


@pytest.mark.parametrize("place", ["model.safetensors", "blobs/0123abcd"])
def test_pages_of_shared_memory_and_of_weights_leave_the_table_and_come_back(place: str, tmp_path: Path) -> None:
    with (tmp_path / "shared").open("w+b") as file:
        file.truncate(BYTES)
        memory = mmap.mmap(file.fileno(), BYTES)
    shared = np.frombuffer(memory, dtype=np.float32)
    shared[:] = 1.5
    (tmp_path / place).parent.mkdir(exist_ok=True)
    save_file({"w": torch.full((BYTES // 4,), 2.5)}, tmp_path / place)
    # In the hub's cache names are links.
    name = tmp_path / "model.safetensors"
    if not name.exists():
        name.symlink_to(tmp_path / place)
    weights = safe_open(name, framework="pt").get_tensor("w").numpy()
    assert weights.sum() == 2.5 * len(weights)
    assert min(resident(str(tmp_path / "shared")), resident(str(tmp_path / place))) >= BYTES
    unmap([shared, weights])
    assert max(resident(str(tmp_path / "shared")), resident(str(tmp_path / place))) < BYTES / 8
    assert (shared.sum(), weights.sum()) == (1.5 * len(shared), 2.5 * len(weights))


@pytest.mark.parametrize("kind", ["own", "anonymous map"])
def test_memory_that_nobody_else_holds_is_left_alone(kind: str) -> None:
    # Anonymous memory would come back as zeros.
    anonymous = mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(anonymous, dtype=np.uint8) if kind == "anonymous map" else np.empty(BYTES, dtype=np.uint8)
    array[:] = 7
    unmap([array])
    assert array.min() == 7


def test_a_mapped_file_may_have_any_name(tmp_path: Path) -> None:
    with (tmp_path / "caf\udce9 \u2028 x").open("w+b") as file:
        file.truncate(BYTES)
        memory = mmap.mmap(file.fileno(), BYTES)
    shared = np.frombuffer(memory, dtype=np.float32)
    shared[:] = 1.5
    unmap([shared])
    assert shared.sum() == 1.5 * len(shared)
