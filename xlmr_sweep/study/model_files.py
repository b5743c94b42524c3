"""Which files of a folder are its model: those that transformers itself would load. In: a folder. Out: `ModelFiles`.

All that reads, checks or hashes a model folder takes its files from here. transformers looks for one file of weights, then for
the index of several; first for safetensors, then for `.bin`. It reads no other file: not the weights of another save, parts of an
older one, or adapters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.version import InvalidVersion, Version

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
CONFIG = "config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

ORDER = ((WEIGHTS, WEIGHTS_INDEX), (BIN, BIN_INDEX))
"""One file of weights and the index of several, in the order in which transformers looks for them."""

READ_ENDINGS = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Endings of the files that loading a model and its tokenizer reads. A README beside them changes no score."""

WEIGHTS_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
"""Names of files that hold weights of a model, or look as if they did."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model folder."""

    folder: Path
    weights: tuple[Path, ...] = ()
    """The files of weights, all in safetensors or all `.bin`; several where an index names them."""
    index: Path | None = None
    """The index that names them."""
    not_read: tuple[Path, ...] = ()
    """Other files that hold weights, which nothing reads."""
    problem: str = ""
    """Why the weights cannot be read; then `weights` is empty."""

    @property
    def unlisted(self) -> tuple[Path, ...]:
        """Files of weights that a listing of the folder by `READ_ENDINGS` lacks. An index may name any file below the folder."""
        listed = _read(self.folder)
        return tuple(path for path in self.weights if path not in listed)

    @property
    def is_safetensors(self) -> bool:
        """Whether the weights are in safetensors."""
        return bool(self.weights) and self.weights[0].suffix == ".safetensors"

    def read_by_loading(self) -> list[Path]:
        """Returns every file that loading reads or may read: settings, tokenizer, and of the weights only the model's."""
        beside = _read(self.folder)
        # Without a model's weights nothing loads, so no file can be told from another.
        left_out = set(self.not_read) if self.weights else set()
        return sorted({*beside, *self.weights} - left_out)


def find_model_files(folder: Path) -> ModelFiles:
    """Returns the files of a model folder. What is wrong with its weights stands in `problem`."""
    candidates = {path for pattern in WEIGHTS_PATTERNS for path in folder.glob(pattern) if not path.name.startswith(".")}
    try:
        weights, index, problem = _choose(folder)
    except PermissionError as error:
        return ModelFiles(folder, problem=f"{error.filename or folder} cannot be read: {error.strerror}")
    if not weights and not problem:
        found = f"; it holds {_several(sorted(path.name for path in candidates))}" if candidates else ""
        problem = f"{folder} holds no weights ({', '.join(name for pair in ORDER for name in pair)}){found}"
    return ModelFiles(folder, tuple(weights), index, tuple(sorted(candidates - set(weights))), problem)


def weights_order(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Returns the names to look for, in pairs: one file of weights, and the index of several. An empty name means none."""
    named = config.get("transformers_weights")
    if not isinstance(named, str):
        return ORDER
    return (("", named),) if named.endswith(".json") else ((named, ""),)


def tokenizer_file(settings: Mapping[str, Any]) -> str:
    """Returns the name of the fast tokenizer's file that transformers reads.

    Args:
        settings: contents of `tokenizer_config.json`. They may name files for versions of transformers and later ones
            (`fast_tokenizer_files`, such as `tokenizer.4.0.0.json`).
    """
    return _of_this_version(settings.get("fast_tokenizer_files"), re.compile(r"tokenizer\.(.*)\.json"), TOKENIZER)


def config_file(config: Mapping[str, Any]) -> str:
    """Returns the name of the configuration that transformers reads.

    Args:
        config: contents of `config.json`. They may name files for versions of transformers and later ones
            (`configuration_files`, such as `config.4.0.0.json`).
    """
    return _of_this_version(config.get("configuration_files"), re.compile(r"^config\.(.*)\.json$"), CONFIG)


def _of_this_version(listed: Any, pattern: re.Pattern[str], usual: str) -> str:
    """Returns the file that is meant for the installed version of transformers, or the usual one."""
    versions: dict[str, str] = {}
    for name in listed if isinstance(listed, list) else ():
        if found := pattern.search(name):
            versions[found[1]] = name
    chosen = usual
    # transformers sorts the versions as text and stops at the first that is later than its own.
    for wanted in sorted(versions):
        try:
            if Version(wanted) > _transformers_version():
                break
        except InvalidVersion:
            break
        chosen = versions[wanted]
    return chosen


def tokenizer_entry(folder: Path, key: str) -> Any:
    """Returns one entry of the fast tokenizer's file without reading the others: a vocabulary has a quarter of a million lines.

    Returns None where there is no such entry.

    Raises:
        OSError: if the folder holds no such file.
        ValueError: if it is no text.
    """
    try:
        named = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = {}
    return entry_in((folder / tokenizer_file(named if isinstance(named, dict) else {})).read_text(encoding="utf-8"), key)


def entry_in(text: str, key: str) -> Any:
    """Returns one entry of the text of a fast tokenizer's file, as `tokenizer_entry`."""
    at = text.find(f'"{key}"')
    if at < 0:
        return None
    start = text.index(":", at) + 1
    start += len(text[start : start + 64]) - len(text[start : start + 64].lstrip())
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except ValueError:
        return None


@cache
def _transformers_version() -> Version:
    return Version(version("transformers"))


def _choose(folder: Path) -> tuple[list[Path], Path | None, str]:
    """Returns the files of weights, their index, and what is wrong with it."""
    explicit = _explicit(folder)
    if explicit is not None:
        named = folder / explicit
        if not explicit.endswith((".safetensors", ".safetensors.index.json")) or not _is_inside(explicit) or not named.is_file():
            return [], None, f"{folder / CONFIG}: transformers_weights: {explicit} is no file of weights in this folder"
        return _named_in(folder, named) if explicit.endswith(".json") else ([named], None, "")
    for single, index in ORDER:
        if (folder / single).is_file():
            return [folder / single], None, ""
        if (folder / index).is_file():
            return _named_in(folder, folder / index)
    return [], None, ""


def _explicit(folder: Path) -> str | None:
    """Returns the file of weights that `config.json` names, which transformers then reads whatever else is there."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        named = config.get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) else None


def _named_in(folder: Path, index: Path) -> tuple[list[Path], Path | None, str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it names no file")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return [], index, f"{index} is damaged: {error}; copy the weights again"
    outside = [name for name in names if not _is_inside(name)]
    if outside:
        return [], index, f"{index} names {_several(outside)}, which is not in this folder"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return [], index, f"{folder} lacks {_several(missing)}, which {index.name} names"
    return [folder / name for name in names], index, ""


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _read(folder: Path) -> set[Path]:
    """Returns the files right in a folder that loading may read by their names, hidden ones left out."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path for path in files if path.name.endswith(READ_ENDINGS)}


def _several(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
