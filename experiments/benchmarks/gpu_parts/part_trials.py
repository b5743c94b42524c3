"""The part `trials`: trials an hour by run_grid.py on one GPU, beside a plain Tune grid around the transformers Trainer."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.trial_parts.grids import TRIAL_PROCESSES, Grid, plain_declaration
from benchmarks.trial_parts.measures import Target
from benchmarks.trial_parts.watch import python, run_watched
from benchmarks.trial_parts.worlds import XLMR_BASE, data_texts, make_data, make_encoder, make_study
from rich.console import Console
from rich.table import Table

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study

STEPS, DROPOUT = 320, 0.1
GOAL_AN_HOUR, GOAL_TIMES = 900.0, 10.0
MODEL = "encoder"
OUR_SHARES, PLAIN_SHARES = (1.0, 0.5), (1.0, 0.25)
"""GPUs of a trial. Four Trainers at once made 5.5 times the steps of one; more do not gain."""


def run(options: Namespace, scratch: Path, console: Console, found: dict[str, Any]) -> None:
    """Runs the grid by both sides, at each share."""
    data = make_data(scratch / "data", ("cb", "copa"))
    encoder = make_encoder(scratch / "encoder", XLMR_BASE, data_texts(data))
    found["rows"] = []
    for share in OUR_SHARES[: options.shares]:
        study = declare(scratch / f"ours-{share}.yaml", encoder, data, range(-(-options.trials // 4)), share)
        found["rows"].append(run_ours(study, scratch / f"ours-{share}.yaml", scratch / f"ours-{share}", share))
        console.print(_line(found["rows"][-1]), highlight=False)
    if not options.ours_alone:
        study = declare(scratch / "plain.yaml", encoder, data, range(1), 1.0)
        for share in PLAIN_SHARES:
            found["rows"].append(run_plain(study, scratch, round(1 / share), share))
            console.print(_line(found["rows"][-1]), highlight=False)
    console.print(_table(found["rows"]))


def targets(found: dict[str, Any]) -> list[Target]:
    """Returns the goals and what was reached."""
    ours = [row["an_hour"] for row in found.get("rows", []) if row["side"] == "ours"]
    alone = [row["an_hour"] for row in found.get("rows", []) if row["side"] == "plain" and row["share"] == 1]
    told = [Target("trials an hour, best share", max(ours), GOAL_AN_HOUR)] if ours else []
    return told + [Target("times the plain grid, one trial a GPU", max(ours) / value, GOAL_TIMES) for value in alone if ours]


def declare(path: Path, encoder: Path, data: Path, seeds: Sequence[int], share: float) -> Study:
    """Writes the grid as a study: two tasks, two sizes, some seeds."""
    return make_study(
        path, name="trials", models=[{"name": MODEL, "folder": str(encoder), "gpus": share}], paradigms=["prompted"],
        tasks=["cb", "copa"], sizes=[16, 64], seeds=list(seeds), data={"source": "folder", "folder": str(data)},
        finetune={"steps": STEPS, "dropout": DROPOUT, "precision": "bf16"}, cluster={"gpus": 1},
    )  # fmt: skip


def run_ours(study: Study, path: Path, home: Path, share: float) -> dict[str, Any]:
    """Runs run_grid.py and reads when each record was there."""
    command = python("experiments/run_grid.py", "--study", str(path), "--storage", str(home))
    watched = run_watched(command, workers=TRIAL_PROCESSES)
    records = [json.loads(file.read_text()) for file in (home / "records").glob("*.json")]
    ends = sorted(datetime.fromisoformat(record["finished_at"]).timestamp() for record in records)
    # Each process's first trial loads libraries and compiles; a study of hundreds pays that once.
    first = round(1 / share)
    pace = (len(ends) - first) / (ends[-1] - ends[first - 1])
    warm = sorted(record["total_time_s"] for record in records)
    return {
        "side": "ours", "share": share, "trials": len(records), "an_hour": 3600 * pace, "trial_s": warm[len(warm) // 2],
        "wall_s": watched.total_s, "first_record_s": ends[0] - watched.began_at,
        "peak_bytes": max(record["peak_memory_bytes"] for record in records),
        "setup_s": [record["setup_time_s"] for record in records], "train_s": [record["train_time_s"] for record in records],
        "eval_s": [record["eval_time_s"] for record in records], "device": records[0]["device"],
    }  # fmt: skip


def run_plain(study: Study, scratch: Path, number: int, share: float) -> dict[str, Any]:
    """Runs so many trials of the plain grid at once and takes their own times, without the start of Ray and of processes."""
    folder = scratch / f"plain-{share}"
    folder.mkdir()
    grid = Grid(("cb", "copa"), (16, 64), (0,), STEPS, study.finetune.max_length, study.finetune.batch_size, 1e-5, 8)
    declaration, _, _ = plain_declaration(grid, study, Storage(scratch / f"prepared-{share}"), folder / "cells")
    declaration["cells"] = declaration["cells"][:number]
    declaration["settings"] |= {"gpu_share": share, "dropout": DROPOUT}
    (folder / "grid.json").write_text(json.dumps(declaration))
    script = str(Path(__file__).parents[1] / "trial_parts" / "plain_grid.py")
    began = time.monotonic()
    run_watched(python(script, str(folder / "grid.json")), workers=("ray::ImplicitFunc",))
    wall_s = time.monotonic() - began
    times = [row["trial_s"] for row in json.loads((folder / "plain.json").read_text())]
    mean = sum(times) / len(times)
    return {
        "side": "plain", "share": share, "trials": len(times), "an_hour": 3600 / mean / share, "trial_s": mean, "wall_s": wall_s,
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    return f"{row['side']}, {row['share']:g} GPUs a trial: {row['an_hour']:.0f} trials an hour ({row['wall_s']:.0f} s)"


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = ("side", "GPUs a trial", "trials", "trials an hour", "a trial, s", "whole command, s")
    # Ours: trials finished after each process's first. The Trainer: by its trials' own times, without the start of processes.
    title = "XLM-R base, 320 steps; the first trial of each process and the start of Ray left out"
    table = Table(*columns, title=title)
    for row in rows:
        numbers = (f"{row['an_hour']:.0f}", f"{row['trial_s']:.2f}", f"{row['wall_s']:.0f}")
        table.add_row(row["side"], f"{row['share']:g}", str(row["trials"]), *numbers)
    return table
