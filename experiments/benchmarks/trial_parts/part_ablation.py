"""One trial with each optimisation switched off in turn.

Run by `python experiments/benchmark.py trials --part ablation`. A study cannot switch an optimisation off: this file patches the
library's functions, for one run at a time. Every row computes the same trial; rows differ in time and memory.
"""

from __future__ import annotations

import gc
import json
import subprocess
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.trial_parts import one_process
from benchmarks.trial_parts.grids import Grid
from benchmarks.trial_parts.measures import median
from benchmarks.trial_parts.one_process import Timed, open_trial, time_trial
from benchmarks.trial_parts.part_base import WORDS
from benchmarks.trial_parts.watch import ROOT, python
from benchmarks.trial_parts.worlds import SMALL_XLMR, XLMR_BASE, data_texts, make_data, make_encoder
from rich.console import Console
from rich.table import Table
from torch import Tensor

from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.modeling import encoder
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.encoder import MaskedLMEncoder
from xlmr_sweep.modeling.families import ModelFamily
from xlmr_sweep.modeling.loading import load_config, load_masked_lm
from xlmr_sweep.modeling.sequences import Sequences
from xlmr_sweep.training import evaluation, finetune, warm_state

STEPS = 3
"""The first warms up and is not counted."""

LENGTH = 64
TRIAL_STEPS = 30
"""Of the trial whose time the table's last column adds up."""


@contextmanager
def full_vocabulary() -> Iterator[None]:
    """Every row of the embeddings is kept."""
    plain = warm_state.compact_inputs

    def everything(task: Any, pools: Any, labels: Any, special: Any, vocab_size: int, *rest: Any) -> Any:
        return plain(task, pools, labels, range(vocab_size), vocab_size, *rest)

    with mock.patch.object(warm_state, "compact_inputs", everything):
        yield


@contextmanager
def all_logits() -> Iterator[None]:
    """Logits of every token of the batch for every row of the vocabulary, as transformers computes them."""

    def logits_at(self: Any, tokens: Sequences, places: Tensor, counts: Any, token_ids: Any = None) -> Tensor:
        logits: Tensor = self.vocabulary_logits(self.hidden(tokens))[places]
        return logits if token_ids is None else logits[:, token_ids]

    with mock.patch.object(MaskedLMEncoder, "logits_at", logits_at):
        yield


@contextmanager
def whole_last_layer() -> Iterator[None]:
    """The last layer computes every token."""
    with mock.patch.object(encoder, "narrow_last_layer", return_value=False):
        yield


@contextmanager
def plain_layers() -> Iterator[None]:
    """transformers' own layers, an operation of autograd after the other, on sequences laid end to end."""
    with mock.patch.object(encoder, "quicken_layers", return_value=None):
        yield


@contextmanager
def padded() -> Iterator[None]:
    """Batches padded to their longest sequence, through transformers' own model and attention."""
    plain = MaskedLMEncoder.__init__

    def init(self: Any, model: Any) -> None:
        with mock.patch.object(ModelFamily, "has_fast_path", False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain(self, model)

    def logits_at(self: Any, tokens: Sequences, places: Tensor, counts: Any, token_ids: Any = None) -> Tensor:
        logits: Tensor = self.vocabulary_logits(self.hidden(tokens).index_select(0, places), token_ids)
        return logits

    with mock.patch.object(MaskedLMEncoder, "__init__", init), mock.patch.object(MaskedLMEncoder, "logits_at", logits_at):
        yield


@contextmanager
def nothing_kept() -> Iterator[None]:
    """Every trial of a process reads weights and configuration, tokenises its task and builds its module anew, once each."""
    plain = finetune.finetune

    def afresh(trial: Any, warm: Any, *rest: Any) -> Any:
        fresh = warm_state.WarmState(warm.study, warm.storage, warm.world)
        load_config.cache_clear()
        return plain(trial, fresh, *rest)

    with mock.patch.object(one_process, "finetune", afresh):
        yield


@contextmanager
def own_weights() -> Iterator[None]:
    """Every process reads the starting weights into memory of its own."""

    def read(source: Any) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in load_masked_lm(source).state_dict().items()}

    with mock.patch.object(warm_state, "starting_weights", read):
        yield


@contextmanager
def evaluation_as_it_comes() -> Iterator[None]:
    """Evaluation in the data's order, as many examples at a time as in training."""

    def batches(examples: Sequence[Encoded], max_tokens: int) -> Iterator[list[int]]:
        for start in range(0, len(examples), 8):
            yield list(range(start, min(start + 8, len(examples))))

    with mock.patch.object(evaluation, "evaluation_batches", batches):
        yield


class LoopAdamW(torch.optim.AdamW):
    """AdamW that goes through parameters one by one."""

    @torch.no_grad()
    def step_divided(self, divisor: Tensor) -> None:
        """As `xlmr_sweep.modeling.optimizer.AdamW`."""
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                parameter.grad /= divisor
        self.step()
        self.zero_grad()


@contextmanager
def loop_optimiser() -> Iterator[None]:
    """Clipping and AdamW go through parameters one by one."""
    plain = finetune.make_optimizer

    def make(*arguments: Any) -> torch.optim.AdamW:
        groups = [{key: group[key] for key in ("params", "weight_decay", "lr")} for group in plain(*arguments).param_groups]
        return LoopAdamW(groups, foreach=False, fused=False)

    with mock.patch.object(finetune, "make_optimizer", make):
        yield


Switch = Callable[[], Any]

OPTIMISATIONS: dict[str, tuple[Switch, ...]] = {
    "all on": (),
    "compact vocabulary": (full_vocabulary,),
    "label rows only: logits of every token": (all_logits,),
    "both of these": (full_vocabulary, all_logits),
    "last layer of the asked tokens only": (whole_last_layer,),
    "a layer as one step of autograd": (plain_layers,),
    "no padding (and own layers)": (padded,),
    "fused optimiser": (loop_optimiser,),
    "evaluation sorted by length: as it comes, in eights": (evaluation_as_it_comes,),
    "warm state: all made anew for every trial": (nothing_kept,),
    "shared weights: a copy a process": (own_weights,),
    "all of these": (
        full_vocabulary, padded, all_logits, loop_optimiser, evaluation_as_it_comes, nothing_kept, own_weights,
    ),
}  # fmt: skip
"""What is switched off."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    setup_s: float
    step_s: float
    eval_s: float
    peak_bytes: int
    difference: float
    """Greatest difference of a score of an evaluation example from that of the first row."""

    @property
    def trial_s(self) -> float:
        """A trial of `TRIAL_STEPS` steps."""
        return self.setup_s + TRIAL_STEPS * self.step_s + self.eval_s


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Times the trial of XLM-R base's shape, a row after the other, in this process; the cold one in a process of its own."""
    shape = SMALL_XLMR if options.small else XLMR_BASE
    grid = Grid(tasks=("cb",), sizes=(16,), seeds=(0,), steps=STEPS, max_length=LENGTH)
    data = make_data(scratch / "data", grid.tasks, options.data, words=WORDS)
    _fewer(data, 16)
    folder = make_encoder(scratch / "encoder", shape, data_texts(data))
    precision = resolve_precision("auto", torch.device("cpu"))
    rows: list[Row] = []
    first: list[float] = []

    def measure(name: str, precision: str, switches: Sequence[Switch]) -> Row:
        timed = time_without(switches, grid, folder, data, scratch / str(len(rows)), precision)
        first.extend(() if first else timed.scores)
        difference = max(abs(a - b) for a, b in zip(timed.scores, first, strict=True))
        row = Row(name, timed.setup_s, median(timed.steps_s), timed.eval_s, timed.peak_bytes, difference)
        # A row takes up to a minute on a slow core.
        console.print(f"{name}: {row.step_s:.2f} s a step", highlight=False)
        rows.append(row)
        return row

    for name, switches in OPTIMISATIONS.items():
        row = measure(name, precision, switches)
        if not switches:
            rows.append(replace(row, name="warm processes: a new one for every trial", setup_s=_cold_setup(scratch / "0")))
    if precision == "bf16" or options.small:
        # Without the hardware, bf16 is emulated: a row that takes minutes and tells nothing.
        other = "fp32" if precision == "bf16" else "bf16"
        measure(f"{other} instead of {precision}", other, ())
    console.print(_table(rows, precision))
    return {"precision": precision, "trial_steps": TRIAL_STEPS, "rows": [{**asdict(r), "trial_s": r.trial_s} for r in rows]}


def time_without(switches: Sequence[Switch], grid: Grid, encoder: Path, data: Path, scratch: Path, precision: str) -> Timed:
    """Times a grid's first trial with some optimisations switched off."""
    # What an earlier row held must not count in this one's memory.
    gc.collect()
    with ExitStack() as stack:
        for switch in switches:
            stack.enter_context(switch())
        warm, trial = open_trial(grid, encoder, data, scratch, precision)
        return time_trial(warm, trial)


COLD = """
import sys, time
began = float(sys.argv[2])
import torch
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.training.warm_state import WarmState
import xlmr_sweep.training.finetune
study = load_study(sys.argv[1])
warm = WarmState(study, Storage(sys.argv[3]), World(device=torch.device("cpu")))
warm.model(expand(study)[0], torch.Generator().manual_seed(0))
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
    title = f"One trial, {precision}, one thread, batch 8 of CB at {LENGTH} tokens; each optimisation switched off in turn"
    table = Table(
        "switched off", "setup, s", "step, s", "evaluation, s", "peak, GiB", f"{TRIAL_STEPS} steps, s", "times", "scores differ",
        title=title,
    )  # fmt: skip
    first = rows[0].trial_s
    for row in rows:
        table.add_row(
            row.name, f"{row.setup_s:.2f}", f"{row.step_s:.2f}", f"{row.eval_s:.2f}", f"{row.peak_bytes / 2**30:.2f}",
            f"{row.trial_s:.1f}", f"{row.trial_s / first:.2f}", f"{row.difference:.0e}",
        )  # fmt: skip
    return table
