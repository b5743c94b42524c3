"""What a model folder holds, read once and from its files alone. Imports torch only for `.bin` weights.

In: a `ModelSource` with a folder. Out: a `ModelFolder`: configuration, files, names and shapes of the weights. Quick check, full
check and loader all look here, so that they cannot answer differently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.source import ModelSource, damaged
from xlmr_sweep.study.model_files import CONFIG, TOKENIZER_CONFIG, ModelFiles, config_file, find_model_files

WRAPPERS = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before each name of a model's weights."""

CODES = {"I8", "U8", "F8_E4M3", "F8_E5M2", "torch.int8", "torch.uint8", "torch.float8_e4m3fn", "torch.float8_e5m2"}
"""Types of quantised weights, as safetensors and torch name them. As plain numbers they would be other weights."""

MOST_NAMES = 5
"""Names that a message lists; of the others it says how many there are."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model."""

    source: ModelSource
    config: Mapping[str, Any]
    """`config.json`."""
    files: ModelFiles
    shapes: Mapping[str, tuple[int, ...]]
    """Of the weights, by the model's own names for them."""
    foreign_code: tuple[str, ...]
    """Files of settings that name code of the folder's own (`auto_map`)."""

    def notes(self) -> list[str]:
        """Returns what a user should know of the folder though it may be used, one line each."""
        folder, found = self.files.folder, []
        if self.files.not_read:
            read = self.files.index or self.files.weights[0]
            others = several(path.name for path in self.files.not_read)
            found.append(f"{read} gives the weights; others in that folder are not read: {others}")
        if self.foreign_code:
            kind = self.config.get("model_type")
            found.append(f"{folder} names code of its own (auto_map), which is never run; transformers' own {kind} is used")
        return found


def read_model_folder(source: ModelSource, *, with_torch: bool = True) -> ModelFolder | None:
    """Returns what the source's folder holds; None for a hub id.

    Args:
        source: the model.
        with_torch: also reads the shapes of `.bin` weights, for which torch is imported.

    Raises:
        StudyError: if configuration or weights are missing or damaged.
    """
    folder = Path(source.location)
    if not folder.is_dir():
        return None
    config = _settings(source, folder / CONFIG)
    if config is None:
        raise StudyError(f"model {source.name}: no configuration loads from {folder}: {CONFIG} is missing")
    if (other := config_file(config)) != CONFIG:
        raise StudyError(
            f"model {source.name}: {folder / CONFIG} names {other} for this version of transformers (configuration_files), which "
            f"may describe another model; rename {other} to {CONFIG}"
        )
    files = find_model_files(folder)
    if files.problem:
        raise StudyError(f"model {source.name}: {files.problem}")
    named = {CONFIG: config, TOKENIZER_CONFIG: _settings(source, folder / TOKENIZER_CONFIG) or {}}
    code = tuple(name for name, settings in named.items() if settings.get("auto_map"))
    shapes = weight_shapes(source, files.weights) if with_torch or files.is_safetensors else {}
    return ModelFolder(source, config, files, shapes, code)


def weight_shapes(source: ModelSource, files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the weights in some files, by the model's own names, without reading the weights.

    Raises:
        StudyError: if a file is damaged, or holds weights as codes that mean something only beside scales.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    place: dict[str, Path] = {}
    for path in files:
        try:
            found = _weights_in(path)
            twice = shapes.keys() & found.keys()
            shapes |= {name: shape for name, (shape, _) in found.items()}
        except (SafetensorError, OSError, RuntimeError, UnpicklingError, EOFError, AttributeError) as error:
            raise damaged(source, path, error) from None
        if twice:
            both = f"{path} and {place[min(twice)].name} both hold {several(twice)}"
            raise StudyError(f"model {source.name}: {both}; one of them is of another save; copy the weights again")
        place |= dict.fromkeys(found, path)
        refuse_codes(source, path, {name: kind for name, (_, kind) in found.items()})
    return {own: shapes[name] for name, own in own_names(shapes).items()}


def refuse_codes(source: ModelSource, where: Path | str, kinds: Mapping[str, str]) -> None:
    """Refuses weights that are codes and mean something only beside scales.

    Args:
        source: the model.
        where: the file or the repository that holds them.
        kinds: the type of each weight, as safetensors or torch names it.

    Raises:
        StudyError: naming them.
    """
    coded = [f"{name} ({kind})" for name, kind in kinds.items() if kind in CODES and name.endswith("weight")]
    if coded:
        raise StudyError(
            f"model {source.name}: {where} holds weights as quantised codes, which cannot be trained: {several(coded)}; give "
            "the model before it was quantised"
        )


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Returns each weight's name without what torch.compile or DistributedDataParallel put before the names of all weights."""
    given = list(names)
    prefix = ""
    while given and (more := next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in given)), "")):
        prefix += more
    return {name: name.removeprefix(prefix) for name in given}


def num_token_types(config: Any) -> int:
    """Returns how many token types a model distinguishes, by its `config.json` or its transformers configuration."""
    value = config.get("type_vocab_size") if isinstance(config, Mapping) else getattr(config, "type_vocab_size", None)
    return value if isinstance(value, int) else 0


def several(names: Iterable[str]) -> str:
    """Returns at most five names, sorted, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else ""
    return ", ".join(listed[:MOST_NAMES]) + more


def unplaced_note(source: ModelSource, model_type: str, names: Iterable[str]) -> str:
    """Returns the line that names weights for which a model has no place."""
    listed = list(names)
    are = "weight has" if len(listed) == 1 else "weights have"
    return (
        f"{len(listed)} {are} no place in transformers' masked-LM model of type {model_type}; "
        f"{source.location} is loaded without: {several(listed)}"
    )


def check_padding(source: ModelSource, config: Mapping[str, Any]) -> None:
    """Refuses a padding token that is no token of the model.

    Raises:
        StudyError: naming the value and what to set.
    """
    padding, family = config.get("pad_token_id"), model_family(config)
    if padding is None and (not family.counts_positions_from_padding or family.fixed_padding is not None):
        return
    size = config["vocab_size"]
    if not isinstance(padding, int) or not 0 <= padding < size:
        why = f"; {family.model_type} counts positions from it" if family.counts_positions_from_padding else ""
        raise StudyError(
            f"model {source.name}: pad_token_id is {json.dumps(padding)} in {source.location}/{CONFIG}, which is no token of the "
            f"model's {size}{why}; set it to the id of the tokenizer's padding token"
        )


def check_positions(source: ModelSource, config: Mapping[str, Any], padding: int | None) -> None:
    """Refuses a model that counts positions from another token than the tokenizer's padding token.

    transformers gives such a token, where it stands in a text, the position of padding.

    Args:
        source: the model.
        config: its `config.json`.
        padding: the id of the tokenizer's padding token.

    Raises:
        StudyError: naming both tokens.
    """
    family, named = model_family(config), config.get("pad_token_id")
    if family.counts_positions_from_padding and family.fixed_padding is None and padding is not None and named != padding:
        raise StudyError(
            f"model {source.name}: pad_token_id is {named} in {source.location}/{CONFIG}, and the tokenizer's padding token is "
            f"{padding}; {family.model_type} counts positions from it; set both to the token that the model was trained with"
        )


def check_direction(source: ModelSource, config: Mapping[str, Any]) -> None:
    """Refuses a model whose tokens attend only to earlier ones.

    Raises:
        StudyError: naming the setting.
    """
    for setting in ("is_decoder", "is_causal"):
        if config.get(setting):
            raise StudyError(
                f"model {source.name}: {setting} is true in {source.location}/{CONFIG}, so a token attends only to earlier ones; "
                "set it to false if the model was trained as a masked language model"
            )


def _settings(source: ModelSource, path: Path) -> Mapping[str, Any] | None:
    """Returns a JSON object; None where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StudyError(f"model {source.name}: {path} cannot be read: {error}") from None
    if not isinstance(content, Mapping):
        raise StudyError(f"model {source.name}: {path} is no JSON object")
    return content


def _weights_in(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns shape and type of each weight in a file."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping.
            return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
    from xlmr_sweep.modeling.bin_weights import load_bin

    return {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in load_bin(path, "meta").items()}
