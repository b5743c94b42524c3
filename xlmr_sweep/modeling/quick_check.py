"""A look at a model's folder without torch and transformers, whose import costs a driver that only starts trials 7 s of CPU.

In: a `ModelSource`, tasks. Out: True where the folder surely serves them; False where a real look (`loading.check_model`) must
tell, which is also the one that says what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer
from xlmr_sweep.modeling.families import model_family, usable_length
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.tasks import TaskSpec
from xlmr_sweep.study.template import label_token_ids

NEEDED = 4
"""Special tokens; a smaller vocabulary would hold nothing else."""


def serves(source: ModelSource, tasks: Iterable[TaskSpec], max_length: int = 0) -> bool:
    """Returns whether a folder's configuration, tokenizer and weights surely serve prompts of up to `max_length` tokens."""
    folder = Path(source.location)
    if not folder.is_dir():
        return False
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return _has_shape_and_head(folder, config, max_length) and _has_words(folder, config, tasks)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, StudyError):
        return False
    except Exception as error:
        # tokenizers raises the bare class for a damaged file.
        if type(error) is Exception:
            return False
        raise


def _has_shape_and_head(folder: Path, config: Mapping[str, Any], max_length: int) -> bool:
    shape = Architecture.from_config(config)
    family = model_family(config)
    files = sorted(folder.glob("*.safetensors"))
    if shape is None or not family.has_fast_path or not files or shape.hidden % int(config["num_attention_heads"]):
        return False
    if max_length > usable_length(config):
        return False
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, framework="np") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping.
    return any(name.startswith(family.head_prefixes) for name in shapes) and _is_whole(shapes, config)


def _is_whole(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> bool:
    """Tells whether the stack has all its layers, alike, and the embeddings the vocabulary's size."""
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if found := re.search(r"\.layers?\.(\d+)\.(.*)", name):
            layers.setdefault(int(found[1]), {})[found[2]] = shape
    family = model_family(config)
    kinds = [{name: shape for name, shape in layer.items() if name not in family.first_layer_lacks} for layer in layers.values()]
    wanted = (config["vocab_size"], config["hidden_size"])
    embeddings = [shape for name, shape in shapes.items() if name.endswith(family.embedding)]
    return len(layers) == config["num_hidden_layers"] and all(kind == kinds[0] for kind in kinds) and embeddings == [wanted]


def _has_words(folder: Path, config: Mapping[str, Any], tasks: Iterable[TaskSpec]) -> bool:
    files = (folder / "tokenizer.json", folder / "tokenizer_config.json")
    tokenizer: Any = BareTokenizer(*(file.read_text(encoding="utf-8") for file in files))
    if (
        not tokenizer.has_template_tokens
        or tokenizer.pad_token_id is None
        or not NEEDED < tokenizer.vocab_size <= config["vocab_size"]
    ):
        return False
    for task in tasks:
        label_token_ids(tokenizer, task)
    return True
