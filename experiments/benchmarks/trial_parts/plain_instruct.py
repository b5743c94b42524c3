"""The other side of the benchmark, instruction tuning by the Trainer: `torchrun --nproc-per-node 2 plain_instruct.py JOB.json`.

Every rank writes `plain-RANK.json` beside JOB.json: the number of tokens that are no padding, and the seconds of all steps.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class CountingTrainer(Trainer):  # type: ignore[misc]
    """Counts what it trains on."""

    num_tokens = 0

    def compute_loss(self, model: Any, inputs: Any, *options: Any, **more: Any) -> Any:
        self.num_tokens += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *options, **more)


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times the steps."""

    began = ended = 0.0

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *arguments: Any, **more: Any) -> None:
        self.ended = time.perf_counter()


def main(path: str) -> None:
    """Trains and writes what it took."""
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(job["model"], trust_remote_code=False)
    model = AutoModelForMaskedLM.from_pretrained(job["model"], dtype=torch.float32, trust_remote_code=False)
    rows = [json.loads(line) for line in Path(job["rows"]).read_text().splitlines()]
    texts = [f"User: {row['inputs']} Assistant: {row['targets']}" for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=job["max_length"])["input_ids"]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=job["steps"],
            per_device_train_batch_size=job["micro_batch"],
            gradient_accumulation_steps=job["accumulation"],
            learning_rate=2e-5,
            weight_decay=0.01,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            ddp_backend="gloo",
            ddp_find_unused_parameters=False,
        )
        trainer = CountingTrainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": ids} for ids in encoded],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
            callbacks=[clock],
        )
        trainer.train()
    found = {"tokens": trainer.num_tokens, "seconds": clock.ended - clock.began, "world_size": trainer.args.world_size}
    Path(path).with_name(f"plain-{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
