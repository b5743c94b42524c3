"""`.bin` weights, read weights-only, and turned into safetensors once per node.

In: `.bin` files. Out: tensors by name; or safetensors files in this node's cache, so that all processes can map them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file
from torch import Tensor

from xlmr_sweep.modeling.source import ModelSource, damaged
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.model_files import WEIGHTS_INDEX, find_model_files
from xlmr_sweep.study.user_cache import user_cache

log = logging.getLogger("xlmr_sweep.trial")

SAME = "same"
"""The entry of an index that names weights which are one and the same."""

FILE_BYTES = 4 * 2**30
"""A `.bin` is written to files of this size. If it is not in fp32, so much is in memory at once."""


def load_bin(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Returns the tensors of a `.bin`, mapped from it where its format allows that. Runs no code of the file.

    Args:
        path: the file.
        device: `cpu`, or `meta` for shapes only.

    Raises:
        RuntimeError: if it is damaged; as do UnpicklingError, EOFError.
    """
    try:
        weights = torch.load(path, map_location=device, weights_only=True, mmap=True)
    except RuntimeError as error:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        if "mmap" not in str(error):
            raise
        weights = torch.load(path, map_location=device, weights_only=True)
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def as_safetensors(source: ModelSource, binaries: Sequence[Path]) -> tuple[Path, ...] | None:
    """Returns safetensors files of this node with what the `.bin` files hold; the first process that asks makes them.

    Returns:
        The files; None where this node's cache cannot be written.

    Raises:
        StudyError: if a `.bin` file is damaged.
    """
    files = [(str(path.resolve()), path.stat()) for path in binaries]
    stats = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in files]
    target = user_cache() / "converted" / fingerprint(stats)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if _same(target) is None:
                _make(source, binaries, target)
    except OSError as error:
        log.warning("model %s: %s is not kept in safetensors: %s", source.name, binaries[0], error)
        return None
    return find_model_files(target).weights


def same_weights(files: Sequence[Path]) -> dict[str, str]:
    """Returns the names of weights that shared memory with another one in the `.bin` files, with that one's name.

    Args:
        files: what `as_safetensors` returned.
    """
    return _same(files[0].parent) or {}


def _same(folder: Path) -> dict[str, str] | None:
    """Returns that of a folder of this node's cache; None where it is not there, or was made by a version that left them out."""
    index = folder / WEIGHTS_INDEX
    found: dict[str, str] | None = (
        json.loads(index.read_text(encoding="utf-8"))["metadata"].get(SAME) if index.is_file() else None
    )
    return found


def _make(source: ModelSource, binaries: Sequence[Path], target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    partial = target.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _convert(source, binaries, partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(source: ModelSource, binaries: Sequence[Path], folder: Path) -> None:
    weight_map: dict[str, str] = {}
    same: dict[str, str] = {}
    for path in binaries:
        part: dict[str, Tensor] = {}
        seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
        for name, tensor in _loaded(source, path).items():
            first = seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
            if first != name:
                same[name] = first
                continue
            if part and sum(t.nbytes for t in part.values()) + 4 * tensor.numel() > FILE_BYTES:
                _write(part, folder, weight_map)
                part = {}
            part[name] = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        _write(part, folder, weight_map)
    # Last: a folder with it is whole.
    index = folder / WEIGHTS_INDEX
    index.write_text(json.dumps({"metadata": {SAME: same}, "weight_map": weight_map}))
    for name in set(weight_map.values()):
        # safetensors makes files that nobody else may read, but a cache may be shared.
        (folder / name).chmod(stat.S_IMODE(index.stat().st_mode))


def _loaded(source: ModelSource, path: Path) -> dict[str, Tensor]:
    try:
        return load_bin(path)
    except (RuntimeError, UnpicklingError, EOFError, AttributeError) as error:
        raise damaged(source, path, error) from None


def _write(part: dict[str, Tensor], folder: Path, weight_map: dict[str, str]) -> None:
    name = f"model-{len(set(weight_map.values())):05d}.safetensors"
    save_file(part, folder / name, {"format": "pt"})
    weight_map |= dict.fromkeys(part, name)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process in at a time. The kernel opens the lock of a process that dies."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
