"""What instruction tuning loses beside computing: `python experiments/benchmark.py instruct [--rows FILE]`.

Runs a job by run_instruct.py on one CPU rank and reads the shares in its manifest: padding, waiting for rows, and how long a
checkpoint holds training up. Steps of fewer rows than the paper's keep it short: they are the harder case for all three, since a
checkpoint takes as long after a short step as after a long one.

A GPU packs rows in another way, and families without a fast path pad them. The padding of both is counted for more steps, of 128
rows as in the paper, by the functions that cut them; no GPU is needed for that. That of the families without a fast path
has no goal and is only told.

Goals: padding at most 4%; waiting for rows at most 2% of the time; a checkpoint at most half a step. Exit status 1 where a goal
is missed. Run it alone on the machine: other work slows the writing of checkpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data_parts.world import make_rows
from benchmarks.trial_parts.grids import MODEL
from benchmarks.trial_parts.measures import Target
from benchmarks.trial_parts.watch import python, run_watched
from benchmarks.trial_parts.worlds import ENCODER_22M, SMALL, data_texts, make_data, make_encoder, make_study
from benchmarks.trials import show_targets
from rich.console import Console

from xlmr_sweep.data.mixture_rows import mixture_manifest
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu.mlm_packing import cut
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import base_source
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.batches import RowOrder, padding, plan_micro_batches
from xlmr_sweep.training.chat_batches import ChatBatches, tokenised_once
from xlmr_sweep.training.masking import Masked

COUNTED_BATCH = 128
"""Rows of a step whose padding is counted, as in the paper."""

SHORT = 2.6
"""Of so many made-up rows one has a short target."""

LEARNT_FROM = 4_000
"""Rows whose texts the tokenizer is learnt from."""


def main(arguments: list[str]) -> int:
    """Runs the job and prints its shares."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py instruct", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, help="jsonl in xP3's form; default made-up rows as long as xP3's")
    parser.add_argument("--steps", type=int, default=8, help="of the job; default 8")
    parser.add_argument("--batch", type=int, default=32, help="rows a step of the job; default 32")
    parser.add_argument("--counted", type=int, default=60, help="steps of 128 rows whose padding is counted; default 60")
    parser.add_argument("--checkpoint-every", type=int, default=3, help="steps between checkpoints; default 3")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the job; default 2")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the benchmark in seconds")
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with tempfile.TemporaryDirectory(prefix="instruct-") as scratch:
        found = run(options, Path(scratch))
    job, shares = found["job"], found["job"]["shares"]
    step_s = job["wall_time_s"] / job["steps"]
    console.print(f"{job['steps']} steps of {options.batch} rows, {job['tokens']:,} tokens: {step_s:.2f} s a step with all else")
    mean = found["counted_tokens"] / found["counted_rows"]
    console.print(f"padding counted in {found['counted_rows']:,} rows of {mean:.0f} tokens on average")
    console.print(f"{job['checkpoints']} checkpoints; families without a fast path would pad {found['padded']:.1%} of the places")
    checkpoint = float("nan") if shares["checkpoint"] is None else shares["checkpoint"]
    targets = [
        Target("padding of the job on a CPU, share of places", shares["padding"], 0.04, at_most=True),
        Target("padding packed for a GPU", found["packed"], 0.04, at_most=True),
        Target("waiting for rows, share of the time", shares["data"], 0.02, at_most=True),
        Target("a checkpoint holds training up, in steps", checkpoint, 0.5, at_most=True),
    ]
    return 0 if show_targets(console, "instruct", [target.as_dict() for target in targets]) else 1


def run(options: Namespace, scratch: Path) -> dict[str, Any]:
    """Runs a job. Returns its manifest, and the padding of both other ways over as many steps."""
    rows = options.rows
    if rows is None:
        rows = scratch / "rows.jsonl"
        make_rows(rows, round(SHORT * max(COUNTED_BATCH * options.counted, options.steps * options.batch)))
    data = make_data(scratch / "data", ["cb"])
    encoder = make_encoder(scratch / "encoder", SMALL if options.small else ENCODER_22M, [*data_texts(data), *_texts(rows)])
    path, home = scratch / "instruct.yaml", scratch / "storage"
    study = make_study(
        path,
        name="shares",
        models=[{"name": MODEL, "folder": str(encoder)}],
        paradigms=["instructed"],
        tasks=["cb"],
        sizes=[4],
        seeds=[0],
        data={"source": "folder", "folder": str(data)},
        instructions={"source": "folder", "folder": str(rows.resolve())},
        instruct={
            "max_steps": options.steps, "global_batch_size": options.batch, "checkpoint_every": options.checkpoint_every,
            "threads": options.threads,
        },
        cluster={"cpus": options.threads},
    )  # fmt: skip
    command = python("experiments/run_instruct.py", "--study", str(path), "--storage", str(home))
    run_watched(command, workers=("ray::",))
    (job,) = (json.loads(file.read_text()) for file in home.glob("instruct/*/manifest.json"))
    steps = list(_steps(study, Storage(home), options.counted))
    most = study.model(MODEL).instruct_micro_batch * study.instruct.max_length
    return {
        "job": job,
        "counted_rows": sum(map(len, steps)),
        "counted_tokens": sum(len(row.input_ids) for rows in steps for row in rows),
        "packed": packed_share(steps, most, study.instruct.max_length),
        "padded": padded_share(steps, most),
    }


def _texts(rows: Path) -> Iterator[str]:
    with rows.open(encoding="utf-8") as file:
        for _, line in zip(range(LEARNT_FROM), file, strict=False):
            row = json.loads(line)
            yield f"{row['inputs']} {row['targets']}"


def _steps(study: Study, storage: Storage, most: int) -> Iterator[list[Masked]]:
    """Yields the rows of each step of a job of the paper's batches, longest first. No more than one epoch."""
    recipe, model = study.instruct, study.model(MODEL)
    tokenizer = load_tokenizer(base_source(storage, study, model))
    template = ChatTemplate(tokenizer, recipe.max_length)
    num_rows = mixture_manifest(study, storage)["num_rows"]
    order = RowOrder.of(num_rows, COUNTED_BATCH, recipe.seed, max_steps=min(most, max(1, num_rows // COUNTED_BATCH)))
    chats = tokenised_once(study, model, storage, order, template, World())
    batches = ChatBatches(chats, order, template, recipe.mask_rate, tokenizer.mask_token_id)
    for step in range(order.num_steps):
        yield sorted(batches.rows(step, range(batches.num_rows(step))), key=lambda row: -len(row.input_ids))


def packed_share(steps: Sequence[Sequence[Masked]], max_tokens: int, longest: int) -> float:
    """Returns the share of places without a token where rows are packed for one GPU."""
    places = tokens = 0
    for rows in steps:
        batches, shape = cut(rows, max_tokens, longest)
        places += len(batches) * shape.tokens
        tokens += sum(len(row.input_ids) for row in rows)
    return 1 - tokens / places


def padded_share(steps: Sequence[Sequence[Masked]], max_tokens: int) -> float:
    """Returns the share of places without a token where rows are filled up to the longest of their micro-batch."""
    filler = tokens = 0
    for rows in steps:
        lengths = [len(row.input_ids) for row in rows]
        slices = plan_micro_batches(lengths, max_tokens)
        filler += sum(padding(lengths[start:end], is_padded=True) for start, end in slices)
        tokens += sum(lengths)
    return filler / (tokens + filler)
