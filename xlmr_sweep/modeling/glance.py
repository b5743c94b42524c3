"""A look at a model's folder without torch and transformers, whose import costs a driver that only starts trials 7 s of CPU.

In: a `ModelSource`, tasks. Out: True where the folder surely serves them; False where a real look (`loading.check_model`) must
tell, which is also the one that says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from xlmr_sweep.architecture import Architecture
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.tasks import TaskSpec
from xlmr_sweep.template import label_token_ids

HEADS = {
    "bert": ("cls.",),
    "camembert": ("lm_head.",),
    "modernbert": ("head.", "decoder."),
    "roberta": ("lm_head.",),
    "xlm-roberta": ("lm_head.",),
    "xlm-roberta-xl": ("lm_head.",),
}
"""How the names of the masked-LM head's weights begin, by model type."""

NEEDED = ("cls_token", "sep_token", "mask_token", "pad_token")


class _Plain:
    """A `tokenizers.Tokenizer` called as transformers' are."""

    def __init__(self, tokenizer: Any, unknown: str | None) -> None:
        self._tokenizer = tokenizer
        self.unk_token_id = None if unknown is None else tokenizer.token_to_id(unknown)

    def __call__(self, text: Sequence[str], **options: Any) -> Mapping[str, Any]:
        return {"input_ids": [found.ids for found in self._tokenizer.encode_batch(list(text), add_special_tokens=False)]}


def serves(source: ModelSource, tasks: Iterable[TaskSpec]) -> bool:
    """Returns whether a folder's configuration, tokenizer and weights surely serve the tasks' prompts."""
    folder = Path(source.location)
    if not folder.is_dir():
        return False
    try:
        return _has_shape_and_head(folder) and _has_words(folder, tasks)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, StudyError):
        return False
    except Exception as error:
        # tokenizers raises the bare class for a damaged file.
        if type(error) is Exception:
            return False
        raise


def _has_shape_and_head(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Architecture.from_config(config)
    heads = HEADS.get(config.get("model_type"))
    files = sorted(folder.glob("*.safetensors"))
    if shape is None or heads is None or not files or shape.hidden % int(config["num_attention_heads"]):
        return False
    names: list[str] = []
    for path in files:
        with safe_open(path, framework="np") as file:
            names += file.keys()
    return any(name.startswith(heads) for name in names)


def _has_words(folder: Path, tasks: Iterable[TaskSpec]) -> bool:
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name in NEEDED:
        token = _text(named.get(name))
        if token is None or tokenizer.token_to_id(token) is None:
            return False
    plain: Any = _Plain(tokenizer, _text(named.get("unk_token")))
    for task in tasks:
        label_token_ids(plain, task)
    return True


def _text(token: Any) -> str | None:
    """Returns a special token as text; it is kept as text or as a mapping with its content."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
