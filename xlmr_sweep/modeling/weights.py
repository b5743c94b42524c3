"""Starting weights as host tensors in fp32, read so that a node holds them once.

In: a `ModelSource`. Out: tensors by the names of the model's state dict. If a safetensors file holds the model's own tensors, it
is mapped and not read. Its pages are then in the system's cache, which all processes of a node share. A `.bin` file is first
turned into such files, weights-only, once per node. transformers converts all else that it can read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForMaskedLM
from transformers.utils import cached_file

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bin_weights import as_safetensors, load_bin, same_weights
from xlmr_sweep.modeling.model_folder import own_names, refuse_codes
from xlmr_sweep.modeling.source import ModelSource, damaged
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.model_files import CONFIG, ORDER, find_model_files, weights_order


@dataclass(frozen=True)
class HeldWeights:
    """A model's weights in its files, none of them read yet."""

    where: Mapping[str, tuple[Any, str]]
    """By the model's own name: the open safetensors file, or the tensors of a `.bin`, and the name there."""

    def different(self, names: Iterable[str]) -> list[str]:
        """Returns some names without those that are not held, or are one weight with a name before."""
        found: dict[tuple[int, str], str] = {}
        for name in names:
            if name in self.where:
                file, stored = self.where[name]
                found.setdefault((id(file), stored), name)
        return list(found.values())

    def tensor(self, name: str) -> Tensor:
        """Returns one weight, mapped from its file."""
        file, stored = self.where[name]
        tensor: Tensor = file[stored] if isinstance(file, Mapping) else file.get_tensor(stored)
        return tensor


def weight_files(source: ModelSource) -> tuple[Path, ...]:
    """Returns the files of a source's weights, in a folder or in a hub's repository. The tuple is empty if there are none.

    Raises:
        StudyError: if a folder's files are not whole.
    """
    folder = Path(source.location)
    if not folder.is_dir():
        return _fetched_files(source)
    files = find_model_files(folder)
    if files.problem:
        raise StudyError(f"model {source.name}: {files.problem}")
    return files.weights


def held_weights(source: ModelSource) -> HeldWeights | None:
    """Opens the files of a source's weights; None where a hub's repository has none or does not answer.

    Raises:
        StudyError: if a file is missing or damaged, or holds weights as codes.
    """
    files = weight_files(source)
    if not files:
        return None
    converted = None if files[0].suffix == ".safetensors" else as_safetensors(source, files)
    where: dict[str, tuple[Any, str]] = {}
    for path in converted or files:
        try:
            if path.suffix == ".safetensors":
                opened: Any = safe_open(path, framework="pt")
                kinds = {name: str(opened.get_slice(name).get_dtype()) for name in opened.keys()}  # noqa: SIM118 - as below.
            else:
                opened = load_bin(path)
                kinds = {name: str(tensor.dtype) for name, tensor in opened.items()}
        except (SafetensorError, OSError, RuntimeError) as error:
            raise damaged(source, path, error) from None
        # A hub's files may have come just now, and what the hub says of them does not always tell.
        refuse_codes(source, path, kinds)
        where |= {name: (opened, name) for name in opened.keys()}  # noqa: SIM118 - a file is no mapping.
    if converted:
        where |= {name: where[first] for name, first in same_weights(converted).items()}
    return HeldWeights({own: where[name] for name, own in own_names(where).items()})


def stamp(source: ModelSource) -> str:
    """Returns what changes when a source's weights do: names, sizes and times of a folder's files; a hub id's revision."""
    folder = Path(source.location)
    if not folder.is_dir():
        return fingerprint([source.location, source.revision, source.new_head])
    files = [(path.name, path.stat()) for path in find_model_files(folder).read_by_loading()]
    stats = [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in files]
    return fingerprint([source.location, source.new_head, stats])


def mapped_weights(source: ModelSource, config: Any) -> dict[str, Tensor] | None:
    """Returns the tensors of a model's state dict as views of its files, tied ones under each name.

    Args:
        source: the model's files.
        config: the model's transformers configuration.

    Returns:
        fp32 tensors; None where the files are not the model's own tensors in fp32 one by one, which transformers then converts.
    """
    held = held_weights(source)
    if held is None:
        return None
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    found: dict[str, Tensor] = {}
    for names, wanted in tied_groups(model.state_dict(keep_vars=True)):
        tensors = [held.tensor(name) for name in held.different(names)]
        if not tensors or any(t.dtype != torch.float32 or t.shape != wanted.shape for t in tensors):
            return None
        if any(not torch.equal(tensors[0], other) for other in tensors[1:]):
            return None
        found |= dict.fromkeys(names, tensors[0])
    return found


def tied_groups(state: Mapping[str, Tensor]) -> list[tuple[list[str], Tensor]]:
    """Returns each tensor of a state dict with its names. A tied tensor has several."""
    groups: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(groups.values())


def as_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Returns tensors as arrays of the same memory. A tensor with several names is one array, keyed by its names with spaces."""
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


def cached_files(source: ModelSource) -> tuple[Path, ...]:
    """Returns the files of weights of a hub's repository that this node's cache holds; none where one is not there yet."""
    return _fetched_files(source, only_cached=True)


def _fetched_files(source: ModelSource, *, only_cached: bool = False) -> tuple[Path, ...]:
    """Returns the files of weights of a hub's repository, found as transformers finds them, from its cache or the hub."""

    def fetched(name: str) -> Path | None:
        try:
            path = cached_file(
                source.location,
                name,
                revision=source.revision or "main",
                local_files_only=only_cached,
                _raise_exceptions_for_missing_entries=False,
            )
        except OSError:  # What is wrong with the hub is said when transformers loads the model.
            return None
        return None if path is None else Path(path)

    config = fetched(CONFIG)
    for single, index in ORDER if config is None else weights_order(json.loads(config.read_text(encoding="utf-8"))):
        whole = fetched(single) if single else None
        if whole is not None:
            return (whole,)
        listing = fetched(index) if index else None
        if listing is not None:
            names = sorted(set(json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values()))
            parts = [fetched(name) for name in names]
            return tuple(part for part in parts if part is not None) if None not in parts else ()
    return ()
