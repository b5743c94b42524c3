"""What both sides of `benchmark.py data` read: made-up instruction rows as long as xP3's, and a tokenizer of XLM-R's kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

NUM_WORDS, VOCABULARY = 40_000, 32_000

SHORT_SHARE = 0.4
"""Of xP3's English rows 12.2 of 31.5 million have a target of at most three tokens."""

INPUT_WORDS = 130
"""Mean of the words of an input; with the tokenizer below about 200 tokens, as in the paper's mixture."""

SHORT = ("yes", "no", "maybe", "true", "false", "A", "B", "C", "D", "positive", "negative")


def make_rows(path: Path, num_rows: int, seed: int = 0) -> None:
    """Writes rows of JSON lines: most words are rare, lengths are spread as real ones, and 40% of the targets are short."""
    rng = np.random.default_rng(seed)
    words = np.array(_words(rng))
    chance = 1.0 / np.arange(1, NUM_WORDS + 1)
    cumulated = np.cumsum(chance / chance.sum())
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_rows):
            num_input = 5 + int(rng.gamma(1.5, (INPUT_WORDS - 5) / 1.5))
            is_short = rng.random() < SHORT_SHARE
            num_target = 0 if is_short else 4 + int(rng.gamma(1.2, 25))
            drawn = words[np.searchsorted(cumulated, rng.random(num_input + num_target)).clip(max=NUM_WORDS - 1)]
            target = str(rng.choice(SHORT)) if is_short else " ".join(drawn[num_input:])
            file.write(json.dumps({"inputs": " ".join(drawn[:num_input]), "targets": target}) + "\n")


def make_model(rows: Path, folder: Path, num_texts: int = 4000) -> None:
    """Makes a folder with a tokenizer of XLM-R's kind, trained on some rows, and the configuration of a small model."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False)
    with rows.open(encoding="utf-8") as file:
        texts = [json.loads(line)["inputs"] for _, line in zip(range(num_texts), file, strict=False)]
    tokenizer.train_from_iterator([*texts, *(" ".join(SHORT) for _ in range(1000))], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **names).save_pretrained(folder)
    config = {"model_type": "xlm-roberta", "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 514, "type_vocab_size": 1}
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))


def _words(rng: np.random.Generator) -> list[str]:
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    return ["".join(rng.choice(syllables, size=int(rng.integers(1, 5)))) for _ in range(NUM_WORDS)]
