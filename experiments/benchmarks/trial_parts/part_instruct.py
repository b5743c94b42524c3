"""Instruction tuning on two ranks: tokens per second, beside the transformers Trainer.

Run by `python experiments/benchmark.py trials --part instruct`.
"""

from __future__ import annotations

import json
import random
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.trial_parts.grids import MODEL
from benchmarks.trial_parts.measures import Target
from benchmarks.trial_parts.watch import python, run_watched
from benchmarks.trial_parts.worlds import (
    SMALL_XLMR,
    XLMR_BASE,
    data_texts,
    make_data,
    make_encoder,
    make_instructions,
    make_study,
)
from rich.console import Console
from rich.table import Table

RANKS = 2
BATCH = 8
PLAIN_MICRO_BATCH = 2
"""Sequences that the Trainer puts through at once, a rank: logits of every token of two sequences of 256 are 0.5 GB."""

STEPS = 4
LENGTH = 256


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Tunes the same model on the same rows both ways."""
    rows = make_instructions(scratch / "instructions.jsonl", 400, options.instructions)
    if options.instructions is None:
        _lengthen(rows)
    data = make_data(scratch / "data", ["cb"])
    texts = data_texts(data) + [" ".join(json.loads(line).values()) for line in rows.read_text().splitlines()]
    encoder = make_encoder(scratch / "encoder", SMALL_XLMR if options.small else XLMR_BASE, texts)
    plain = _plain(encoder, rows, scratch)
    ours = _ours(encoder, rows, data, scratch)
    table = Table("", "tokens", "s", "tokens a second", title=f"Instruction tuning, {RANKS} ranks, {STEPS} steps of {BATCH}")
    for name, side in (("transformers Trainer, fp32", plain), (f"run_instruct.py, {ours['precision']}", ours)):
        table.add_row(name, str(side["tokens"]), f"{side['seconds']:.1f}", f"{side['tokens'] / side['seconds']:.1f}")
    console.print(table)
    times = (ours["tokens"] / ours["seconds"]) / (plain["tokens"] / plain["seconds"])
    return {"plain": plain, "ours": ours, "targets": [Target("times the Trainer's tokens a second", times, 3.0).as_dict()]}


def _plain(encoder: Path, rows: Path, scratch: Path) -> dict[str, Any]:
    job = {
        "model": str(encoder), "rows": str(rows), "steps": STEPS, "max_length": LENGTH, "micro_batch": PLAIN_MICRO_BATCH,
        "accumulation": BATCH // RANKS // PLAIN_MICRO_BATCH,
    }  # fmt: skip
    path = scratch / "job.json"
    path.write_text(json.dumps(job))
    script = str(Path(__file__).with_name("plain_instruct.py"))
    run_watched(
        python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), script, str(path)),
        workers=("plain_instruct",), environment={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ranks = [json.loads((scratch / f"plain-{rank}.json").read_text()) for rank in range(RANKS)]
    if any(rank["world_size"] != RANKS for rank in ranks):
        raise RuntimeError(f"the Trainer's ranks did not find each other: world size {ranks[0]['world_size']}")
    return {"tokens": sum(rank["tokens"] for rank in ranks), "seconds": max(rank["seconds"] for rank in ranks)}


def _ours(encoder: Path, rows: Path, data: Path, scratch: Path) -> dict[str, Any]:
    path, home = scratch / "instruct.yaml", scratch / "ours"
    make_study(
        path,
        name="tokens",
        models=[{"name": MODEL, "folder": str(encoder), "instruct_ranks": RANKS, "instruct_micro_batch": BATCH}],
        paradigms=["instructed"],
        tasks=["cb"],
        sizes=[4],
        seeds=[0],
        data={"source": "folder", "folder": str(data)},
        instructions={"source": "folder", "folder": str(rows)},
        instruct={"max_steps": STEPS, "global_batch_size": BATCH, "max_length": LENGTH},
        cluster={"cpus": RANKS},
    )
    command = python("experiments/run_instruct.py", "--study", str(path), "--storage", str(home))
    run_watched(command, workers=("ray::",))
    (manifest,) = (json.loads(file.read_text()) for file in home.glob("instruct/*/manifest.json"))
    return {"tokens": manifest["tokens"], "seconds": manifest["wall_time_s"], "precision": manifest["precision"]}


def _lengthen(path: Path) -> None:
    """Puts text before the demo's instructions, so that they are about as long as xP3's, which have 221 tokens on average."""
    from xlmr_sweep.data.demo import pretraining_texts

    rng = random.Random(0)
    fill = " ".join(pretraining_texts(2, 6_000)).split()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        start, number = rng.randrange(len(fill) - 400), min(240, round(rng.lognormvariate(4.9, 0.5)))
        row["inputs"] = " ".join([*fill[start : start + number], row["inputs"]])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
