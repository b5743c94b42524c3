"""The whole offline study, and where its time goes.

Run by `python experiments/benchmark.py trials --part demo`.
"""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.trial_parts.grids import TRIAL_PROCESSES
from benchmarks.trial_parts.measures import Target
from benchmarks.trial_parts.watch import python, run_watched
from rich.console import Console
from rich.table import Table

GOAL_S = 240.0


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Runs the demo in a folder of its own."""
    part = ("--sizes", "8", "--seeds", "0") if options.small else ()
    command = python("experiments/demo.py", "--storage", str(scratch / "demo"), *part)
    watched = run_watched(command, workers=TRIAL_PROCESSES)
    split = time_split(watched.output)
    split["the rest"] = watched.total_s - sum(split.values())
    table = Table("step", "s", title="The demo study")
    for name, seconds in [*split.items(), ("total", watched.total_s)]:
        table.add_row(name, f"{seconds:.0f}")
    console.print(table)
    targets = [Target("seconds from start to report", watched.total_s, GOAL_S, at_most=True)]
    return {"split_s": split, "total_s": watched.total_s, "targets": [target.as_dict() for target in targets]}


def time_split(output: str) -> dict[str, float]:
    """Returns the seconds of each step that a run's last lines tell of."""
    line = next((line for line in output.splitlines() if line.startswith("Where the time went: ")), "")
    # In brackets stands what ran beside a step.
    found = re.findall(r"([^,:]+?) (\d+) s(?:,|$)", re.sub(r" \([^)]*\)", "", line.partition(": ")[2]))
    return {name.strip(): float(seconds) for name, seconds in found}
