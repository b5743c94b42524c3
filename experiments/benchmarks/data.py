"""Preparation of instruction data beside `datasets.map`: `python experiments/benchmark.py data [--rows 200000]`.

Both sides read the same made-up rows, keep those with short targets, fill the chat template, cut, and write token ids. Each has a
process of its own. datasets has two processes, ours a thread for each CPU; a tokenizer has no threads of its own. The CPU time of
its calls is counted apart: what is left is the work outside the tokenizer. Goals: 1.5 times the rows a second, 3 times outside
the tokenizer, at most 2 GiB. Exit status 1 where a goal is missed.

`--growth 100000 400000` runs only our side, once for each number of rows, and compares the greatest memory of the runs. Goal: at
most 10% more for the most rows than for the fewest. With `--ray` the parts go to Ray Data, and the greatest process counts.

`--restart 0.25 0.5 0.75` runs only our side: once from start to end, then once more, killed by SIGKILL at these shares of the
parts and again when only the manifest is missing. What a kill lost is the CPU time of the parts that were at work, measured as
the process dies. Goal: at most 1% of the CPU time of all parts and of joining them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data_parts.world import make_model, make_rows
from benchmarks.trial_parts.measures import Target
from benchmarks.trial_parts.watch import run_watched
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
    parser.add_argument("--ray", action="store_true", help="with --growth: Ray Data does the parts")
    parser.add_argument(
        "--restart", type=float, nargs="+", metavar="SHARE", help="only our side: what kills at these shares of the parts lose"
    )
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if options.growth:
        return _show_growth(console, sorted(options.growth), "ray" if options.ray else "here")
    if options.restart:
        return _show_restart(console, options.rows, sorted(options.restart))
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


def _show_growth(console: Console, numbers: list[int], where: str) -> int:
    with tempfile.TemporaryDirectory(prefix="data-") as scratch:
        sides = run_growth(Path(scratch), numbers, where)
    for number, side in sides.items():
        console.print(f"{number:,} rows: {side['seconds']:.1f} s, {side['peak_bytes'] / 2**30:.2f} GiB")
    peaks = [side["peak_bytes"] for side in sides.values()]
    targets = [
        Target("memory, GiB", max(peaks) / 2**30, 2.0, at_most=True),
        Target("memory of the most rows, in times of the fewest", peaks[-1] / peaks[0], 1.1, at_most=True),
    ]
    return 0 if show_targets(console, "data", [target.as_dict() for target in targets]) else 1


def _show_restart(console: Console, num_rows: int, shares: list[float]) -> int:
    with tempfile.TemporaryDirectory(prefix="data-") as scratch:
        whole, killed = run_restart(Path(scratch), num_rows, shares)
    work = whole["parts_s"] + whole["joined_s"]
    console.print(
        f"from start to end: {whole['parts']} parts, {whole['parts_s']:.1f} CPU s; joining {whole['joined_s']:.2f} CPU s",
        highlight=False,
    )
    for name, run in killed.items():
        console.print(
            f"killed {name}: {run['parts']} parts were done in this run, {run['lost_parts']} at work; "
            f"lost {run['lost_s']:.2f} CPU s, {run['lost_s'] / work:.2%}",
            highlight=False,
        )
    most = max(run["lost_s"] for run in killed.values()) / work
    target = Target("the most that a kill lost, share of the work", most, 0.01, at_most=True)
    return 0 if show_targets(console, "data", [target.as_dict()]) else 1


def _outside(side: dict[str, Any]) -> float:
    return float(side["cpu"] - side["tokenizer_cpu"])


def run_growth(scratch: Path, numbers: list[int], where: str = "here") -> dict[int, dict[str, Any]]:
    """Prepares the first rows of one file, as many as each number says, each in a process of its own, `here` or by `ray`."""
    rows, model = scratch / "rows.jsonl", scratch / "model"
    make_rows(rows, numbers[-1])
    make_model(rows, model)
    sides = {}
    for number in numbers:
        first = scratch / f"first-{number}.jsonl"
        with rows.open("rb") as every, first.open("wb") as file:
            file.writelines(itertools.islice(every, number))
        storage = scratch / f"storage-{number}"
        command = [PARTS / "our_side.py", _study(scratch / f"{number}.yaml", first, model), storage, where, 0]
        sides[number] = _watched_side(command) if where == "ray" else _side(command)
        first.unlink()
        shutil.rmtree(storage)
    return sides


def run_restart(scratch: Path, num_rows: int, shares: list[float]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Prepares once from start to end, then once more with a kill at each share, at the latest when the manifest is missing.

    Returns:
        The notes of the first run, and of each killed run by when it was killed.
    """
    rows, model = scratch / "rows.jsonl", scratch / "model"
    make_rows(rows, num_rows)
    make_model(rows, model)
    study, notes = _study(scratch / "study.yaml", rows, model), scratch / "notes.json"

    def run(storage: str, dies: int | str) -> dict[str, Any]:
        command = [PARTS / "killed_side.py", study, scratch / storage, notes, dies]
        done = subprocess.run([sys.executable, *map(str, command)], check=False)
        if done.returncode != (0 if dies == "never" else -signal.SIGKILL):
            raise RuntimeError(f"a run ended with {done.returncode}")
        found: dict[str, Any] = json.loads(notes.read_text())
        return found

    whole = run("whole", "never")
    killed: dict[str, dict[str, Any]] = {}
    for share in shares:
        before = sum(one["parts"] for one in killed.values())
        killed[f"at {share:.0%}"] = run("killed", max(1, round(share * whole["parts"]) - before))
    killed["before the manifest"] = run("killed", "join")
    done = run("killed", "never")["parts"] + sum(one["parts"] for one in killed.values())
    # A part at work may have got its file just before its process died.
    at_work = sum(one["lost_parts"] for one in killed.values())
    if not whole["parts"] - at_work <= done <= whole["parts"]:
        raise RuntimeError(f"{done} parts were done in all, not {whole['parts']}")
    return whole, killed


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


def _watched_side(command: list[Any]) -> dict[str, Any]:
    """Returns what a side printed. Its memory is that of its greatest process: itself, or one of Ray's workers."""
    run = run_watched([sys.executable, *map(str, command)], workers=("ray::",))
    found: dict[str, Any] = json.loads([line for line in run.output.splitlines() if line.startswith("{")][-1])
    return found | {"peak_bytes": max(found["peak_bytes"], *run.peak_uss_bytes.values())}
