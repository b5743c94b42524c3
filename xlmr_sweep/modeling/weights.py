"""Starting weights as host tensors in fp32, read so that a node holds them once.

In: a `ModelSource`. Out: tensors by the names of the model's state dict. Safetensors files whose tensors are the model's own
are mapped, not read: their pages are in the system's cache, which all processes of a node share, and none is any process's own.
`.bin` files are turned into such files first, weights-only, once a node. Whatever else transformers can load is loaded by it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForMaskedLM
from transformers.utils import cached_file

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.user_cache import user_cache

log = logging.getLogger("xlmr_sweep.trial")

FILE_BYTES = 4 * 2**30
"""Size of the files that a `.bin` is written to; so much is in hand at once where it is not in fp32."""

INDEX = "model.safetensors.index.json"


def stamp(source: ModelSource) -> str:
    """Returns what changes when a source's weights do: names, sizes and times of a folder's files; a hub id's revision."""
    folder = Path(source.location)
    if not folder.is_dir():
        return fingerprint([source.location, source.revision, source.new_head])
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    stats = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return fingerprint([source.location, source.new_head, stats])


def mapped_weights(source: ModelSource, config: Any) -> dict[str, Tensor] | None:
    """Returns the tensors of a model's state dict as views of its files, tied ones under each name.

    Args:
        source: where the files are.
        config: the model's transformers configuration.

    Returns:
        fp32 tensors; None where the files are not the model's own tensors in fp32 one by one, which transformers then reads.
    """
    folder = safetensors_folder(source)
    if folder is None:
        return None
    where: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        file: Any = safe_open(path, framework="pt")
        where |= dict.fromkeys(file.keys(), file)
    with torch.device("meta"):
        groups = tied_groups(AutoModelForMaskedLM.from_config(config, dtype=torch.float32).state_dict(keep_vars=True))
    found: dict[str, Tensor] = {}
    for names, wanted in groups:
        tensors = [where[name].get_tensor(name) for name in names if name in where]
        if not tensors or any(t.dtype != torch.float32 or t.shape != wanted.shape for t in tensors):
            return None
        if any(not torch.equal(tensors[0], other) for other in tensors[1:]):
            return None
        found |= dict.fromkeys(names, tensors[0])
    return found


def tied_groups(state: Mapping[str, Tensor]) -> list[tuple[list[str], Tensor]]:
    """Returns the names of each tensor of a state dict, several where it is tied, and the tensor."""
    groups: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(groups.values())


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Returns tensors as arrays of the same memory; one that has several names is one array, under all of them with blanks."""
    by_place: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in tensors.items():
        by_place.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return {" ".join(names): tensors[names[0]].numpy() for names in by_place.values()}


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns what `as_arrays` was given, without a copy. Arrays of shared memory cannot be written: nor can these tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {
            name: tensor for names, array in arrays.items() for tensor in (torch.from_numpy(array),) for name in names.split(" ")
        }


def safetensors_folder(source: ModelSource) -> Path | None:
    """Returns a local folder with the source's weights in safetensors, made of its `.bin` files where it has no others.

    Raises:
        StudyError: if a `.bin` file is damaged.
    """
    files = _files(source, "model.safetensors", INDEX)
    if files:
        return files[0].parent
    binaries = _files(source, "pytorch_model.bin", "pytorch_model.bin.index.json")
    if not binaries:
        return None
    try:
        return _converted(source, binaries)
    except OSError as error:
        # No room, or a home that cannot be written: transformers reads the file as it is.
        log.warning("model %s: %s is not kept in safetensors: %s", source.name, binaries[0], error)
        return None


def _files(source: ModelSource, single: str, index: str) -> list[Path]:
    """Returns the files of one kind of weights, of a folder or of the hub's; none where there are none."""
    folder = Path(source.location)
    if folder.is_dir():
        stem, _, ending = single.partition(".")
        return sorted(path for path in folder.glob(f"{stem}*.{ending}") if path.is_file())

    def fetched(name: str) -> Path | None:
        try:
            path = cached_file(
                source.location, name, revision=source.revision or "main", _raise_exceptions_for_missing_entries=False
            )
        except OSError:  # What is wrong with the hub is said when transformers loads the model.
            return None
        return None if path is None else Path(path)

    whole = fetched(single)
    if whole is not None:
        return [whole]
    listing = fetched(index)
    if listing is None:
        return []
    parts = [fetched(name) for name in sorted(set(json.loads(listing.read_text())["weight_map"].values()))]
    return [part for part in parts if part is not None]


def _converted(source: ModelSource, binaries: list[Path]) -> Path:
    """Returns the folder of this node with what the `.bin` files hold; the first process that asks makes it."""
    stats = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in binaries]
    target = user_cache() / "converted" / fingerprint(stats)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not (target / INDEX).is_file():
            shutil.rmtree(target, ignore_errors=True)
            partial = target.with_suffix(".tmp")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                _convert(source, binaries, partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _convert(source: ModelSource, binaries: list[Path], folder: Path) -> None:
    weight_map: dict[str, str] = {}
    for path in binaries:
        part: dict[str, Tensor] = {}
        seen: set[tuple[int, torch.Size]] = set()
        for name, tensor in _load(source, path).items():
            place = (tensor.data_ptr(), tensor.shape)
            if place in seen:  # Tied: the model ties it again.
                continue
            seen.add(place)
            if part and sum(t.nbytes for t in part.values()) + 4 * tensor.numel() > FILE_BYTES:
                _write(part, folder, weight_map)
                part = {}
            part[name] = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        _write(part, folder, weight_map)
    for name in ("config.json", "generation_config.json"):
        if (beside := binaries[0].parent / name).is_file():
            shutil.copy(beside, folder / name)
    # Last: a folder with it is whole.
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _write(part: dict[str, Tensor], folder: Path, weight_map: dict[str, str]) -> None:
    name = f"model-{len(set(weight_map.values())):05d}.safetensors"
    save_file(part, folder / name, {"format": "pt"})
    weight_map |= dict.fromkeys(part, name)


def _load(source: ModelSource, path: Path) -> dict[str, Tensor]:
    try:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            # Files from before torch 1.6 are no zip archives and cannot be mapped.
            if "mmap" not in str(error):
                raise
            weights = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    except (RuntimeError, UnpicklingError, EOFError) as error:
        problem = " ".join(str(error).split())[:200]
        raise StudyError(f"model {source.name}: {path} is damaged: {problem}; copy the weights again") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process in at a time. The kernel opens the lock of a process that dies."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
