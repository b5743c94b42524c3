"""What a trial costs: `python experiments/benchmark.py trials [--part encoder --part base ...]`.

encoder   a 22 M-parameter encoder, CB and COPA, sizes 16 and 64, two seeds, 60 steps of batch 8: a plain Tune grid around the
          transformers Trainer, then the same grid by run_grid.py. Goal: ten times sooner, the same scores.
base      XLM-R base's shape (250,002 rows), 4 trials of 30 steps of batch 8 at 64 tokens, both ways. Goal: ten times sooner, a
          third of the unshared memory a process.
share     the share of the machine's measured matrix-product rate that a training step of the base shape reaches at 16 x 128
          tokens, with a profile. Goal: 35%.
instruct  instruction tuning of the base shape on two ranks: tokens a second, beside the transformers Trainer. Goal: three times.
ablation  one trial with each optimisation switched off in turn.
demo      where the time of the demo study goes.

Without --part: all. Each prints a table and writes OUT/trials-PART.json. Weights are random, so scores only show whether both
sides agree. Exit status 1 where a goal is missed. Run it alone on the machine: other work slows either side.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PARTS = ("encoder", "base", "share", "instruct", "ablation", "demo")


def main(arguments: list[str]) -> int:
    """Runs the chosen parts, one after the other."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py trials", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; default all")
    parser.add_argument("--encoder", type=Path, help="folder of a 22 M-parameter encoder; default random weights of that shape")
    parser.add_argument("--data", type=Path, help="folder with CB and COPA in the official layout; default the demo's tasks")
    parser.add_argument("--instructions", type=Path, help="jsonl in xP3's form; default the demo's instructions")
    parser.add_argument("--steps", type=int, help="other than 60 and 30 steps a trial in encoder and base, where time is short")
    parser.add_argument("--seeds", type=int, default=2, help="of encoder and base; the goals are for 2")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the JSON files")
    parser.add_argument("--small", action="store_true", help="tiny models and few steps, to try the benchmark in seconds")
    options = parser.parse_args(arguments)
    if problem := missing():
        print(f"Error: {problem}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=150)
    options.out.mkdir(parents=True, exist_ok=True)
    good = True
    for part in options.part or PARTS:
        run: Callable[..., dict[str, Any]] = importlib.import_module(f"benchmarks.trial_parts.part_{part}").run
        with tempfile.TemporaryDirectory(prefix="trials-") as scratch:
            began = time.monotonic()
            found = run(options, Path(scratch), console)
        found |= {"part": part, "small": options.small, "seconds": time.monotonic() - began, "machine": machine()}
        (options.out / f"trials-{part}.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
        good &= show_targets(console, f"trials, {part}", found.get("targets", []))
    return 0 if good else 1


def missing() -> str | None:
    """Returns what is not installed of what the other side needs."""
    for module in ("accelerate", "psutil"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed; pip install -c constraints.txt -e '.[benchmark]'"
    return None


def show_targets(console: Console, title: str, targets: list[dict[str, Any]]) -> bool:
    """Prints goals and what was reached; returns whether all are met."""
    if not targets:
        return True
    table = Table("goal", "reached", "wanted", "met", title=title)
    for target in targets:
        sign = "at most" if target["at_most"] else "at least"
        table.add_row(
            target["what"], f"{target['reached']:.3g}", f"{sign} {target['goal']:.3g}", "yes" if target["is_met"] else "NO"
        )
    console.print(table)
    return all(target["is_met"] for target in targets)


def machine() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    import torch

    from xlmr_sweep.modeling.device import resolve_precision

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "precision": resolve_precision("auto", torch.device("cpu")),
        "load": os.getloadavg(),
        "torch": torch.__version__,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
