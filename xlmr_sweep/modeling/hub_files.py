"""What is known of a model before its weights are read: its small files, and what the hub says of its weights.

In: a `ModelSource`. Out: the text of a file that is on this node, or the shapes of the weights of a hub's repository. Imports
neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.model_folder import own_names, refuse_codes, several
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.storage.hub_cache import cached_model_file
from xlmr_sweep.study.model_files import CONFIG, weights_order

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def read_small_file(source: ModelSource, name: str) -> str:
    """Returns the text of a file of a model's folder, or of a hub's repository as this node's cache holds it.

    Raises:
        FileNotFoundError: if neither holds it. Nothing is fetched.
    """
    if Path(source.location).is_absolute():
        return (Path(source.location) / name).read_text(encoding="utf-8")
    found = cached_model_file(source.location, name, source.revision or "main")
    if found is None:
        raise FileNotFoundError(f"{source.location}: {name} is not in the cache")
    return found.read_text(encoding="utf-8")


def announced_shapes(source: ModelSource) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each weight in a hub repository, by its name there. Reads only the beginnings of the files.

    Empty if the weights are not safetensors, or if the hub does not answer. The reason is given when the model loads.

    Raises:
        StudyError: if the repository holds no weights, quantised ones, or not all files that its index names.
    """
    from huggingface_hub import HfApi

    api, revision = HfApi(), source.revision or "main"
    try:
        there = set(api.list_repo_files(source.location, revision=revision))
        order = weights_order(json.loads(read_small_file(source, CONFIG)))
        files, index = _choose(api, source, there, order)
    except Exception:  # The hub's client raises dozens of unrelated classes.
        return {}
    if not files:
        expected = ", ".join(name for pair in order for name in pair if name)
        raise StudyError(f"model {source.name}: {source.location} holds no weights ({expected})")
    missing = sorted(set(files) - there)
    if missing:
        raise StudyError(f"model {source.name}: {source.location} lacks {several(missing)}, which {index} names")
    if not all(name.endswith(".safetensors") for name in files):
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, str] = {}
    try:
        for name in files:
            head = api.parse_safetensors_file_metadata(source.location, name, revision=revision)
            shapes |= {weight: tuple(info.shape) for weight, info in head.tensors.items()}
            kinds |= {weight: str(info.dtype) for weight, info in head.tensors.items()}
    except Exception:  # As above.
        return {}
    refuse_codes(source, source.location, kinds)
    return {own: shapes[name] for name, own in own_names(shapes).items()}


def _choose(api: HfApi, source: ModelSource, there: set[str], order: Sequence[tuple[str, str]]) -> tuple[Sequence[str], str]:
    """Returns the names of a repository's files of weights, and the index that names them."""
    for single, index in order:
        if single in there:
            return [single], ""
        if index in there:
            listing = api.hf_hub_download(source.location, index, revision=source.revision or "main")
            return sorted(set(json.loads(Path(listing).read_text(encoding="utf-8"))["weight_map"].values())), index
    return [], ""
