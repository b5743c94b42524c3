"""What is known of each family of models. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS = {
    "bert": ("cls.",),
    "camembert": ("lm_head.",),
    "modernbert": ("head.", "decoder."),
    "roberta": ("lm_head.",),
    "xlm-roberta": ("lm_head.",),
    "xlm-roberta-xl": ("lm_head.",),
}
"""How the names of the masked-LM head's weights begin, by model type: of the families that take the fast path."""


PADDED_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
"""Kinds of model whose position ids start behind the padding token's id."""


def usable_length(config: Mapping[str, Any]) -> int:
    """Returns the tokens of the longest input of a model; RoBERTa's kin lose the positions up to the padding token's id."""
    positions = int(config.get("max_position_embeddings") or 512)
    return positions - (int(config["pad_token_id"]) + 1 if config.get("model_type") in PADDED_POSITIONS else 0)


# The parameter count of these model types is exact; others share the arithmetic of operations but not every parameter.
EXACT_TYPES = ("bert", "roberta", "xlm-roberta", "xlm-roberta-xl")


FAST_TYPES = ("bert", "camembert", "modernbert", "roberta", "xlm-roberta", "xlm-roberta-xl")
"""Model types that a trial trains on a compact vocabulary, with logits of label words alone."""


PRE_NORM_TYPES = ("xlm-roberta-xl", "modernbert")
