"""Steps of the transformers Trainer in bf16 on a GPU: the other side of the part `step`."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from benchmarks.gpu_parts.shapes import LABEL_IDS, GpuShape, config_of
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback, TrainingArguments

from xlmr_sweep.data.encoding import Encoded

WARM_UPS, STEPS = 5, 20
VOCABULARY = {"bert": 30_522, "xlm-roberta": 250_002, "xlm-roberta-xl": 250_880}


class _Marks(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step in (WARM_UPS, WARM_UPS + STEPS):
            torch.cuda.synchronize()
            self.marks.append(time.perf_counter())


def plain_step_ms(shape: GpuShape, examples: list[Encoded]) -> float:
    """Returns the milliseconds of a step: the whole vocabulary, dynamic padding, cross-entropy over the label words."""
    model = AutoModelForMaskedLM.from_config(
        config_of(shape, VOCABULARY[shape.family]), dtype=torch.float32, trust_remote_code=False
    )
    data = [{"input_ids": e.input_ids, "at": e.mask_at, "labels": e.label} for e in examples]

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True, padding_value=1)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            mask[i, : len(row["input_ids"])] = 1
        at, labels = (torch.tensor([row[name] for row in rows]) for name in ("at", "labels"))
        return {"input_ids": ids, "attention_mask": mask, "at": at, "labels": labels}

    class PromptTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
            at, labels = inputs.pop("at"), inputs.pop("labels")
            logits = model(**inputs).logits[torch.arange(len(at), device=at.device), at][:, LABEL_IDS]
            return torch.nn.functional.cross_entropy(logits, labels)

    marks = _Marks()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=WARM_UPS + STEPS, per_device_train_batch_size=len(data), bf16=True, learning_rate=1e-5,
            weight_decay=0.01, max_grad_norm=1.0, remove_unused_columns=False, save_strategy="no", report_to="none",
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        PromptTrainer(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[marks]).train()
    return 1e3 * (marks.marks[1] - marks.marks[0]) / STEPS
