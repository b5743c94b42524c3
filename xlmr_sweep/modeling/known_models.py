"""Shapes of hub models that are compared in the study `encoders`, so that a plan needs neither network nor files.

In: a hub id. Out: what its `config.json` says of its size, as its model card or paper gives it. Files that are at hand go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _sizes(kind: str, layers: int, hidden: int, ffn: int, vocabulary: int, positions: int, **more: Any) -> Mapping[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": hidden // 64,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "pad_token_id": 1,
        **more,
    }


KNOWN_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    # Liang et al. 2023, and ImaniGooghari et al. 2023: XLM-R base with another vocabulary.
    "facebook/xlm-v-base": _sizes("xlm-roberta", 12, 768, 3072, 901_629, 514, type_vocab_size=1),
    "cis-lmu/glot500-base": _sizes("xlm-roberta", 12, 768, 3072, 401_145, 514, type_vocab_size=1),
    # Marone et al. 2025: 140 M and 307 M parameters, 42 M and 110 M of them without the embeddings.
    "jhu-clsp/mmBERT-small": _sizes("modernbert", 22, 384, 1152, 256_000, 8192),
    "jhu-clsp/mmBERT-base": _sizes("modernbert", 22, 768, 1152, 256_000, 8192),
    # Warner et al. 2024, and Weller et al. 2025: 149 M parameters each.
    "answerdotai/ModernBERT-base": _sizes("modernbert", 22, 768, 1152, 50_368, 8192),
    "jhu-clsp/ettin-encoder-150m": _sizes("modernbert", 22, 768, 1152, 50_368, 7999),
    # Boizard et al. 2025.
    "EuroBERT/EuroBERT-210m": _sizes("eurobert", 12, 768, 3072, 128_256, 8192, tie_word_embeddings=False),
    "EuroBERT/EuroBERT-610m": _sizes("eurobert", 26, 1152, 4096, 128_256, 8192, tie_word_embeddings=False, num_key_value_heads=6),
    # Devlin et al. 2019, and Liu et al. 2019.
    "google-bert/bert-base-uncased": _sizes("bert", 12, 768, 3072, 30_522, 512, type_vocab_size=2),
    "FacebookAI/roberta-base": _sizes("roberta", 12, 768, 3072, 50_265, 514, type_vocab_size=1),
}
"""By hub id."""
