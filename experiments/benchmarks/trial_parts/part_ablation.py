"""The part `ablation`: one trial with each means switched off in turn.

The switches are patches of this file on the library's own functions, for one run at a time: a study cannot set them. Every row
computes the same trial; rows differ in time and memory.
"""

from __future__ import annotations

import gc
import json
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.trial_parts.grids import Grid
from benchmarks.trial_parts.measures import median
from benchmarks.trial_parts.one_process import Timed, open_bench, time_trial
from benchmarks.trial_parts.part_base import WORDS
from benchmarks.trial_parts.watch import ROOT, python
from benchmarks.trial_parts.worlds import SMALL_XLMR, XLMR_BASE, data_texts, make_data, make_encoder
from rich.console import Console
from rich.table import Table

from xlmr_sweep import finetune, workbench
from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.modeling.compact import CompactVocabulary
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.encoder import MaskedLMEncoder
from xlmr_sweep.modeling.loading import load_config

STEPS = 3
"""The first warms up and is not counted."""

LENGTH = 64
TRIAL_STEPS = 30
"""Of the trial whose time the table's last column adds up."""


@contextmanager
def full_vocabulary() -> Iterator[None]:
    """Every row of the embeddings is kept."""
    plain = workbench.Workbench._encode

    def encode(self: Any, source: Any, *rest: Any, **more: Any) -> Any:
        size = load_config(source).vocab_size

        def everything(used: Any, special: Any) -> CompactVocabulary:
            return CompactVocabulary(torch.arange(size))

        with mock.patch.object(CompactVocabulary, "of", staticmethod(everything)):
            return plain(self, source, *rest, **more)

    with mock.patch.object(workbench.Workbench, "_encode", encode):
        yield


@contextmanager
def all_logits() -> Iterator[None]:
    """Logits of every token of the batch for every row of the vocabulary, as transformers computes them."""

    def logits_at(
        self: Any, ids: torch.Tensor, rows: Any, columns: Any, token_ids: Any = None, mask: Any = None, **more: Any
    ) -> torch.Tensor:
        logits = self.vocabulary_logits(self.hidden(ids, mask, **more))[rows, columns]
        return logits if token_ids is None else logits[:, token_ids]

    with mock.patch.object(MaskedLMEncoder, "logits_at", logits_at):
        yield


@contextmanager
def evaluation_as_it_comes() -> Iterator[None]:
    """Evaluation in the data's order, as many examples at a time as in training."""

    def batches(examples: Sequence[Encoded], max_tokens: int) -> Iterator[list[int]]:
        for start in range(0, len(examples), 8):
            yield list(range(start, min(start + 8, len(examples))))

    with mock.patch.object(finetune, "evaluation_batches", batches):
        yield


@contextmanager
def loop_optimiser() -> Iterator[None]:
    """AdamW that goes through parameters one by one."""
    plain = finetune.make_optimizer

    def make(*arguments: Any) -> torch.optim.AdamW:
        groups = [{key: group[key] for key in ("params", "weight_decay", "lr")} for group in plain(*arguments).param_groups]
        return torch.optim.AdamW(groups, foreach=False, fused=False)

    with mock.patch.object(finetune, "make_optimizer", make):
        yield


Switch = Callable[[], Any]

MEANS: dict[str, tuple[Switch, ...]] = {
    "all on": (),
    "full vocabulary": (full_vocabulary,),
    "logits of every token": (all_logits,),
    "full vocabulary, logits of every token": (full_vocabulary, all_logits),
    "evaluation as it comes, in eights": (evaluation_as_it_comes,),
    "AdamW one parameter at a time": (loop_optimiser,),
    "all of these off": (full_vocabulary, all_logits, evaluation_as_it_comes, loop_optimiser),
}
"""What is switched off."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    setup_s: float
    step_s: float
    eval_s: float
    peak_bytes: int

    @property
    def trial_s(self) -> float:
        """A trial of `TRIAL_STEPS` steps."""
        return self.setup_s + TRIAL_STEPS * self.step_s + self.eval_s


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Times the trial of XLM-R base's shape, a row after the other, in this process; the cold one in a process of its own."""
    shape = SMALL_XLMR if options.small else XLMR_BASE
    grid = Grid(tasks=("cb",), sizes=(16,), seeds=(0,), steps=STEPS, max_length=LENGTH)
    data = make_data(scratch / "data", grid.tasks, options.data, max_words=WORDS)
    _fewer(data, 16)
    encoder = make_encoder(scratch / "encoder", shape, data_texts(data))
    precision = resolve_precision("auto", torch.device("cpu"))
    rows: list[Row] = []

    def measure(name: str, precision: str, switches: Sequence[Switch]) -> Row:
        timed = _timed(grid, encoder, data, scratch / str(len(rows)), precision, switches)
        row = Row(name, timed.setup_s, median(timed.steps_s), timed.eval_s, timed.peak_bytes)
        # A row takes up to a minute on a slow core.
        console.print(f"{name}: {row.step_s:.2f} s a step", highlight=False)
        rows.append(row)
        return row

    for name, switches in MEANS.items():
        row = measure(name, precision, switches)
        if not switches:
            rows.append(replace(row, name="a new process for every trial", setup_s=_cold_setup(scratch / "0")))
    if precision == "bf16" or options.small:
        # Without the hardware, bf16 is emulated: a row that takes minutes and tells nothing.
        other = "fp32" if precision == "bf16" else "bf16"
        measure(f"{other} instead of {precision}", other, ())
    console.print(_table(rows, precision))
    return {"precision": precision, "trial_steps": TRIAL_STEPS, "rows": [{**asdict(r), "trial_s": r.trial_s} for r in rows]}


def _timed(grid: Grid, encoder: Path, data: Path, scratch: Path, precision: str, switches: Sequence[Switch]) -> Timed:
    # What an earlier row held must not count in this one's memory.
    gc.collect()
    with ExitStack() as stack:
        for switch in switches:
            stack.enter_context(switch())
        bench, trial = open_bench(grid, encoder, data, scratch, precision)
        return time_trial(bench, trial)


COLD = """
import sys, time
began = float(sys.argv[2])
import torch
from xlmr_sweep.study import load_study
from xlmr_sweep.plan import expand
from xlmr_sweep.storage import Storage
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.workbench import Workbench
import xlmr_sweep.finetune
study = load_study(sys.argv[1])
bench = Workbench(study, Storage(sys.argv[3]), World(device=torch.device("cpu")))
bench.model(expand(study)[0], torch.Generator().manual_seed(0))
print(time.time() - began)
"""


def _cold_setup(scratch: Path) -> float:
    """Returns the seconds from the start of a process until its trial may begin: imports, data, weights."""
    command = python("-c", COLD, str(scratch / "study.yaml"), str(time.time()), str(scratch / "storage"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def _fewer(data: Path, number: int) -> None:
    """Keeps that many evaluation rows."""
    for path in data.rglob("val.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()][:number]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _table(rows: Sequence[Row], precision: str) -> Table:
    title = f"One trial, {precision}, one thread, batch 8 of CB at {LENGTH} tokens; each means switched off in turn"
    table = Table(
        "switched off", "setup, s", "step, s", "evaluation, s", "peak, GiB", f"{TRIAL_STEPS} steps, s", "times", title=title
    )
    first = rows[0].trial_s
    for row in rows:
        table.add_row(
            row.name, f"{row.setup_s:.2f}", f"{row.step_s:.2f}", f"{row.eval_s:.2f}", f"{row.peak_bytes / 2**30:.2f}",
            f"{row.trial_s:.1f}", f"{row.trial_s / first:.2f}",
        )  # fmt: skip
    return table
