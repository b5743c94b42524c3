"""Preparation of instruction data beside `datasets.map`: `python experiments/benchmark.py data [--rows 200000]`.

Both sides read the same made-up rows, keep those with short targets, fill the chat template, cut, and write token ids. Each has a
process of its own. datasets has two processes, ours a thread for each CPU; a tokenizer has no threads of its own. The CPU time of
its calls is counted apart: what is left is the work outside the tokenizer. Goals: 1.5 times the rows a second, 3 times outside
the tokenizer, at most 2 GiB. Exit status 1 where a goal is missed.

`--growth 100000 400000` runs only our side, once for each number of rows, and compares the greatest memory of the runs. Goal: at
most 10% more for the most rows than for the fewest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data_parts.world import make_model, make_rows
from benchmarks.trial_parts.measures import Target
from benchmarks.trials import show_targets
from rich.console import Console

PARTS = Path(__file__).with_name("data_parts")
NUM_PROC = 2


def main(arguments: list[str]) -> int:
    """Runs both sides and prints a table."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="rows to prepare; default 200000")
    parser.add_argument(
        "--growth", type=int, nargs="+", metavar="ROWS", help="only our side, once for each number of rows: does memory grow?"
    )
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if options.growth:
        return _show_growth(console, sorted(options.growth))
    with tempfile.TemporaryDirectory(prefix="data-") as scratch:
        sides = run_sides(Path(scratch), options.rows)
    for name, side in sides.items():
        outside = f", {_outside(side):.1f} CPU s outside the tokenizer"
        memory = f", {side['peak_bytes'] / 2**30:.2f} GiB" if "peak_bytes" in side else ""
        console.print(f"{name}: {options.rows / side['seconds']:,.0f} rows a second ({side['seconds']:.1f} s){outside}{memory}")
    plain, ours = sides["datasets.map"], sides["ours"]
    targets = [
        Target("times the rows a second", plain["seconds"] / ours["seconds"], 1.5),
        Target("times outside the tokenizer", _outside(plain) / _outside(ours), 3.0),
        Target("memory, GiB", ours["peak_bytes"] / 2**30, 2.0, at_most=True),
        Target("rows apart", abs(plain["rows"] - ours["rows"]), 0.0, at_most=True),
    ]
    return 0 if show_targets(console, "data", [target.as_dict() for target in targets]) else 1


def _show_growth(console: Console, numbers: list[int]) -> int:
    with tempfile.TemporaryDirectory(prefix="data-") as scratch:
        sides = run_growth(Path(scratch), numbers)
    for number, side in sides.items():
        console.print(f"{number:,} rows: {side['seconds']:.1f} s, {side['peak_bytes'] / 2**30:.2f} GiB")
    peaks = [side["peak_bytes"] for side in sides.values()]
    targets = [
        Target("memory, GiB", max(peaks) / 2**30, 2.0, at_most=True),
        Target("memory of the most rows, in times of the fewest", peaks[-1] / peaks[0], 1.1, at_most=True),
    ]
    return 0 if show_targets(console, "data", [target.as_dict() for target in targets]) else 1


def _outside(side: dict[str, Any]) -> float:
    return float(side["cpu"] - side["tokenizer_cpu"])


def run_growth(scratch: Path, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """Prepares the first rows of one file, as many as each number says, each in a process of its own."""
    rows, model = scratch / "rows.jsonl", scratch / "model"
    make_rows(rows, numbers[-1])
    make_model(rows, model)
    sides = {}
    for number in numbers:
        first = scratch / f"first-{number}.jsonl"
        with rows.open("rb") as every, first.open("wb") as file:
            file.writelines(itertools.islice(every, number))
        storage = scratch / f"storage-{number}"
        sides[number] = _side([PARTS / "our_side.py", _study(scratch / f"{number}.yaml", first, model), storage, "here", 0])
        first.unlink()
        shutil.rmtree(storage)
    return sides


def _study(path: Path, rows: Path, model: Path) -> Path:
    """Writes the study of some rows."""
    instructions = {"source": "folder", "folder": str(rows), "max_target_tokens": 3}
    models = [{"name": "m", "folder": str(model)}]
    # JSON is YAML.
    path.write_text(json.dumps({"name": "data", "models": models, "sizes": [8], "seeds": [0], "instructions": instructions}))
    return path


def run_sides(scratch: Path, num_rows: int) -> dict[str, dict[str, Any]]:
    """Runs each side in a process of its own. Returns what each printed, by its name."""
    rows, model = scratch / "rows.jsonl", scratch / "model"
    make_rows(rows, num_rows)
    make_model(rows, model)
    study = _study(scratch / "study.yaml", rows, model)
    (scratch / "plain").mkdir()
    ours = [PARTS / "our_side.py", study]
    return {
        "datasets.map": _side([PARTS / "plain_map.py", rows, model, scratch / "plain", NUM_PROC]),
        "ours": _side([*ours, scratch / "storage", "here", 0]),
    }


def _side(command: list[Any]) -> dict[str, Any]:
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
