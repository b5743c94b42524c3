"""Masked language modelling by the transformers Trainer: the other side of the part `instruct`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.gpu_parts.random_rows import RandomRows, as_inputs
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments


class _Marks(TrainerCallback):  # type: ignore[misc]
    def __init__(self, first: int, last: int) -> None:
        self._at, self.marks = (first, last), []

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step in self._at:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())


def plain_tokens_s(
    make_model: Callable[[], Any], rows: RandomRows, micro_batch: int, settled: int, free: Callable[[], None]
) -> tuple[float, int]:
    """Returns the tokens a second of the steps after the first ones, and the rows that the Trainer put through at once.

    Args:
        make_model: returns a new model on the device.
        rows: what it trains on; all rows are equally long.
        micro_batch: rows put through at once; halved where memory does not hold them.
        settled: steps that are not timed.
        free: gives unused memory of the device back.

    Raises:
        MemoryError: if not even one row at a time fits.
    """
    while micro_batch:
        found = _timed(make_model, rows, micro_batch, settled)
        free()
        if found is not None:
            return found, micro_batch
        micro_batch //= 2
    raise MemoryError("the Trainer does not fit this GPU")


def _timed(make_model: Callable[[], Any], rows: RandomRows, micro_batch: int, settled: int) -> float | None:
    examples = [as_inputs(row) for step in range(rows.num_steps) for row in rows.rows(step, range(rows.batch_size))]
    marks = _Marks(settled, rows.num_steps)
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=rows.num_steps, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=rows.batch_size // micro_batch, bf16=on_gpu, use_cpu=not on_gpu, learning_rate=1e-5,
            weight_decay=0.01, max_grad_norm=1.0, save_strategy="no", report_to="none", disable_tqdm=True,
            logging_strategy="no",
        )  # fmt: skip
        try:
            trainer = Trainer(model=make_model(), args=arguments, train_dataset=examples, callbacks=[marks])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        except torch.OutOfMemoryError:
            return None
    timed = (rows.num_steps - settled) * rows.batch_size * rows.longest
    return timed / (marks.marks[1] - marks.marks[0])
