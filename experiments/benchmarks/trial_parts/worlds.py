"""Models, data and studies that the benchmark's two sides share, in a temporary folder.

In: a shape, optionally a real encoder's folder and a real data folder. Out: folders that transformers and a study load.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xlmr_sweep.data.demo import instruction_rows, pretraining_texts, task_rows
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TASKS, TaskSpec, render
from xlmr_sweep.study.template import ASSISTANT_MARK, USER_MARK

FILES = {"train": "train", "val": "validation"}
CB_PREMISE_WORDS = (48, 0.54)
"""Median and spread (of the logarithm) of the words of CB's premises: of the released ones 10% have 25, half 48, 90% 96."""


@dataclass(frozen=True)
class Shape:
    """An encoder's shape."""

    family: str
    num_layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int


ENCODER_22M = Shape("bert", 6, 384, 12, 1536, 30_522, 512)
XLMR_BASE = Shape("xlm-roberta", 12, 768, 12, 3072, 250_002, 514)
SMALL = Shape("bert", 2, 64, 2, 128, 8_000, 512)
SMALL_XLMR = Shape("xlm-roberta", 2, 64, 2, 128, 12_000, 514)


def make_encoder(folder: Path, shape: Shape, texts: Iterable[str]) -> Path:
    """Writes an encoder of that shape with random weights and no dropout, and a tokenizer learnt from the texts.

    A few thousand pieces cover the texts; the rest of the vocabulary is there and never used, as most of a real one is.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    tokenizer = _make_tokenizer(shape, texts)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.positions,
        type_vocab_size=2 if shape.family == "bert" else 1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(config, dtype=torch.float32, trust_remote_code=False).save_pretrained(folder)
    return folder


def _make_tokenizer(shape: Shape, texts: Iterable[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    is_bert = shape.family == "bert"
    pad, unknown, cls, sep, mask = (
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if is_bert else ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    )
    # XLM-R counts positions from its padding token, 1; its mask is the last token.
    first = [pad, unknown, cls, sep, mask] if is_bert else [cls, pad, sep, unknown]
    corpus = [*texts, *_prompt_words()]
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=min(6_000, shape.vocabulary // 2), special_tokens=first, show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # As pieces of the model, not as added tokens, which would take seconds to load.
    state = json.loads(tokenizer.to_str())
    pieces = state["model"]["vocab"]
    pieces |= {f"unused{i}": i for i in range(len(pieces), shape.vocabulary - (not is_bert))}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(mask, lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1" if is_bert else f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=cls, bos_token=cls, sep_token=sep, eos_token=sep, pad_token=pad, unk_token=unknown,
        mask_token=AddedToken(mask, lstrip=True), model_max_length=512, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _prompt_words() -> Iterator[str]:
    """Every word that a prompt may need as one token, often enough that the tokenizer makes it one."""
    for task in TASKS.values():
        yield from [" ".join(task.label_words)] * 200
        yield from [f"{USER_MARK} {task.prompt} {ASSISTANT_MARK}".replace("{", " ").replace("}", " ")] * 20


def copy_encoder(source: Path, folder: Path, *, dropout: float = 0.0) -> Path:
    """Copies a real encoder with dropout switched off; a missing masked-LM head is made the way a study makes it."""
    from xlmr_sweep.modeling.loading import load_masked_lm, load_tokenizer
    from xlmr_sweep.modeling.source import ModelSource
    from xlmr_sweep.training.trial_model import set_dropout

    given = ModelSource("encoder", str(source), None, new_head=True)
    model = load_masked_lm(given)
    set_dropout(model.config, dropout)
    model.save_pretrained(folder)
    load_tokenizer(given).save_pretrained(folder)
    return folder


def make_data(folder: Path, tasks: Iterable[str], source: Path | None = None, *, words: int | None = None) -> Path:
    """Writes tasks in the official layout: those of a folder, or the demo's with CB's premises as long as the real ones.

    Args:
        folder: what is written.
        tasks: names among the built-in tasks.
        source: a folder in the official layout; None for the demo's tasks.
        words: for runs at a fixed length: cuts the long field's first words, or says it again, until a rendered prompt has so
            many words.
    """
    for name in tasks:
        task = TASKS[name]
        (folder / task.folder).mkdir(parents=True, exist_ok=True)
        for file, split in FILES.items():
            rows = _demo_rows(name, split) if source is None else _read_rows(source / task.folder / f"{file}.jsonl")
            if words is not None:
                rows = [_of_length(task, row, words) for row in rows]
            (folder / task.folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _demo_rows(name: str, split: str) -> list[dict[str, Any]]:
    number = {"cb": {"train": 250, "validation": 56}, "copa": {"train": 400, "validation": 100}}
    rows = [dict(row) for row in task_rows(name, 0)[split]][: number.get(name, {}).get(split)]
    if name != "cb":
        return rows
    rng = random.Random(f"lengths of {split}")
    fill = iter(" ".join(pretraining_texts(1, 4_000)).split())
    middle, spread = CB_PREMISE_WORDS
    for row in rows:
        wanted = min(205, max(8, round(middle * math.exp(rng.gauss(0, spread)))))
        before = [next(fill) for _ in range(wanted - len(row["premise"].split()))]
        row["premise"] = " ".join([*before, row["premise"]])
    return rows


def _of_length(task: TaskSpec, row: dict[str, Any], words: int) -> dict[str, Any]:
    long = str(row[task.long_field]).split()
    wanted = max(1, len(long) + words - len(render(task.prompt, row).split()))
    said = long * (1 + wanted // len(long))
    return {**row, task.long_field: " ".join(said[-wanted:])}


def data_texts(folder: Path) -> list[str]:
    """Returns every text of a data folder, to learn a tokenizer from."""
    rows = [row for path in sorted(folder.rglob("*.jsonl")) for row in _read_rows(path)]
    return [" ".join(str(value) for value in row.values() if isinstance(value, str)) for row in rows]


def make_instructions(path: Path, number: int, source: Path | None = None) -> Path:
    """Writes instruction rows in xP3's form: the first of a file, or the demo's."""
    rows = list(instruction_rows(0, number)) if source is None else _read_rows(source)[:number]
    path.write_text("".join(json.dumps({"inputs": r["inputs"], "targets": r["targets"]}) + "\n" for r in rows))
    return path


def make_study(path: Path, **keys: Any) -> Study:
    """Writes a study file and reads it back as a run would."""
    path.write_text(yaml.safe_dump(keys))
    return load_study(str(path))
