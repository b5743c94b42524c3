"""Makes the small things that tests need: encoders of each family in folders, SuperGLUE-like folders, instructions."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

WORDS = """
the a cat dog bird river house red green old new sat ran slept near under because so yes no maybe is was it that this question
does imply first second choice sentence have same meaning in both sentences more likely cause effect or user assistant : . , ? !
""".split()  # noqa: SIM905
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
FAMILIES = ("xlm-roberta", "xlm-roberta-xl", "bert", "modernbert")
FAST_FAMILIES = (*FAMILIES, "eurobert", "gte")
EVERY_FAMILY = (*FAST_FAMILIES, "roberta", "camembert", "electra", "albert", "distilbert", "mpnet")
WITH_TYPES = ("bert", "electra", "albert")
"""Families whose tokenizer tells the two texts of a pair apart."""
_OF_BERT = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
OWN_SPECIAL = {
    **dict.fromkeys(("bert", "electra", "distilbert", "modernbert"), _OF_BERT),
    "albert": ["[CLS]", "<pad>", "[SEP]", "<unk>", "[MASK]"],
    "mpnet": ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"],
    "eurobert": ["<|begin_of_text|>", "<|pad|>", "<|end_of_text|>", "<|unk|>", "<|mask|>"],
}
"""Special tokens as families spell them, in the order of `SPECIAL`, where they spell them in another way."""
CB_TASK = {
    "name": "cb",
    "labels": ["entailment", "contradiction", "neutral"],
    "label_words": ["yes", "no", "maybe"],
    "prompt": "{premise} {hypothesis}",
    "baseline": ["{premise}", "{hypothesis}"],
    "long_field": "premise",
    "folder": "CB",
}
"""CB as a task of a study file."""


def write_tokenizer(
    folder: Path, words: Iterable[str] = WORDS, family: str = "xlm-roberta", special: Sequence[str] = SPECIAL
) -> Any:
    """Writes a fast tokenizer of whole lower-case words; unknown words become the unknown token, the fourth of `special`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    begin, padding, end, unknown, mask = special
    vocabulary = {word: i for i, word in enumerate([*special[:4], *dict.fromkeys(words), mask])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B:1 {end}:1", special_tokens=[(begin, 0), (end, 2)]
    )
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if family in WITH_TYPES else [])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        cls_token=begin,
        eos_token=end,
        sep_token=end,
        pad_token=padding,
        unk_token=unknown,
        mask_token=mask,
        model_input_names=inputs,
        model_max_length=128,
    )
    wrapped.save_pretrained(folder)
    return wrapped


def tokenizer_of(model: Any, normalizer: Any, added: list[Any], *, mask: str) -> Any:
    """Returns a tokenizer of transformers around a model of the tokenizers library, with `<s>`, `<pad>`, `</s>` and `<unk>`."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens(added)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": mask}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def dropping_tokenizer(words: Sequence[str] = ("yes", "no", "the")) -> Any:
    """Returns byte-level pairs whose alphabet is that of few words, without an unknown token: it drops what it does not know."""
    from tokenizers import models, pre_tokenizers

    known = [*(f"\u0120{word}" for word in words), "User", "Assistant", ":", "."]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL[:3], SPECIAL[4]])}
    merges = []
    for word in known:
        for letter in word:
            vocabulary.setdefault(letter, len(vocabulary))
    for word in known:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = tokenizer_of(models.BPE(vocabulary, merges), None, [], mask=SPECIAL[4])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.unk_token = None
    return tokenizer


_MADE: dict[str, dict[str, bytes]] = {}
"""Files of the encoders made so far. Making an encoder takes far longer than writing its files."""


def make_encoder(
    folder: Path,
    family: str = "xlm-roberta",
    *,
    words: Iterable[str] = WORDS,
    head: bool = True,
    seed: int = 0,
    std: float = 0.02,
    **settings: Any,
) -> Path:
    """Writes a two-layer encoder with a word-level tokenizer; `std` is the starting weights', `settings` the configuration's."""
    options = {"family": family, "words": list(words), "head": head, "seed": seed, "std": std, "settings": settings}
    key = repr(options)
    if key not in _MADE:
        with tempfile.TemporaryDirectory() as name:
            _save_encoder(Path(name), **options)
            _MADE[key] = {file.name: file.read_bytes() for file in Path(name).iterdir()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _MADE[key].items():
        (folder / name).write_bytes(content)
    return folder


def _save_encoder(
    folder: Path, family: str, words: list[str], head: bool, seed: int, std: float, settings: dict[str, Any]
) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    vocabulary = write_tokenizer(folder, words, family)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"initializer_range": std}
    options: dict[str, Any] = {"vocab_size": len(vocabulary), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if family == "modernbert":
        # A window that cuts the short texts of tests: in the second of two layers a token sees 4 to each side.
        options |= {"cls_token_id": 0, "sep_token_id": 2, "max_position_embeddings": 128, "local_attention": 8}
    elif family == "eurobert":
        # Two heads share a key.
        options |= {"max_position_embeddings": 128, "mask_token_id": len(vocabulary) - 1, "num_key_value_heads": 2}
    else:
        options |= {"max_position_embeddings": 130, "type_vocab_size": 2 if family in WITH_TYPES else 1}
    config = AutoConfig.for_model(family, **shape, **(options | settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (AutoModelForMaskedLM if head else AutoModel).from_config(config)
    model.save_pretrained(folder)


def make_superglue(folder: Path, tasks: tuple[str, ...] = ("cb", "copa"), num_train: int = 24, num_val: int = 9) -> Path:
    """Writes tasks in the layout and spelling of the official archive."""
    rng = random.Random(0)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS[:16]) for _ in range(rng.randint(3, 9)))

    def row(task: str, i: int) -> dict[str, Any]:
        if task == "cb":
            label = ("entailment", "contradiction", "neutral")[i % 3]
            return {"premise": sentence(), "hypothesis": sentence(), "label": label, "idx": i}
        if task == "rte":
            label = ("entailment", "not_entailment")[i % 2]
            return {"premise": sentence(), "hypothesis": sentence(), "label": label, "idx": i}
        if task == "boolq":
            return {"passage": sentence(), "question": sentence(), "label": bool(i % 2), "idx": i}
        if task == "wic":
            texts = {"word": "cat", "sentence1": sentence(), "sentence2": sentence()}
            return {**texts, "label": bool(i % 2), "idx": i}
        texts = {"premise": sentence(), "choice1": sentence(), "choice2": sentence()}
        return {**texts, "question": ("cause", "effect")[i % 2], "label": i % 2, "idx": i}

    names = {"boolq": "BoolQ", "cb": "CB", "copa": "COPA", "rte": "RTE", "wic": "WiC"}
    for task in tasks:
        (folder / names[task]).mkdir(parents=True, exist_ok=True)
        for split, number in (("train", num_train), ("val", num_val)):
            lines = [json.dumps(row(task, i)) + "\n" for i in range(number)]
            (folder / names[task] / f"{split}.jsonl").write_text("".join(lines))
    return folder


def make_instructions(path: Path, num_rows: int = 60) -> Path:
    """Writes instruction rows in xP3's form."""
    rng = random.Random(1)
    targets = ["yes", "no", "maybe", "red"]
    rows = [
        {
            "inputs": " ".join(rng.choice(WORDS[:16]) for _ in range(8)) + " ?",
            "targets": rng.choice(targets),
        }
        for _ in range(num_rows)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_study(folder: Path, encoder: Path, **changes: Any) -> Path:
    """Writes a study of an encoder on CB and COPA with its data; keywords replace or add keys of the file."""
    make_superglue(folder / "superglue")
    make_instructions(folder / "instructions.jsonl")
    study = {
        "name": "small",
        "models": [{"name": "tiny", "folder": str(encoder), "instruct_ranks": 2}],
        "tasks": ["cb", "copa"],
        "sizes": [4, 8],
        "seeds": [0, 1],
        "data": {"source": "folder", "folder": "superglue"},
        "instructions": {"source": "folder", "folder": "instructions.jsonl"},
        "instruct": {"max_steps": 3, "global_batch_size": 16, "max_length": 64, "precision": "fp32"},
        "finetune": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32"},
        "cluster": {"cpus": 2},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**study, **changes}))
    return path


def one_at_a_time(study: Path, folder: Path) -> Path:
    """Writes a copy of a study in which a trial holds both CPUs, so that one process does all, and imports once."""
    changed = yaml.safe_load(study.read_text())
    for model in changed["models"]:
        model["cpus"] = 2
    for name in ("data", "instructions"):
        changed[name]["folder"] = str(study.parent / changed[name]["folder"])
    path = folder / "one-at-a-time.yaml"
    path.write_text(yaml.safe_dump(changed))
    return path


def make_record(trial: Any, **changes: Any) -> dict[str, Any]:
    """Returns the record of a trial with the least that a record holds; keywords replace or add columns."""
    return {**trial.as_dict(), "score": 0.5, "metric": "accuracy", "spec": {}, "resolved": {}, **changes}
