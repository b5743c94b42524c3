"""Checks that the demo study tells the paradigms apart: `python experiments/benchmark.py demo_world --seed 11`.

Runs the whole demo study on that seed. Prints for each task the share of the majority class and the scores of the larger model at
the largest size, and the pooled IPR of instructed over prompted with its standard error. Exit status 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

ABOVE_MAJORITY, SATURATED = 0.10, 0.97


def majority(task: str, seed: int) -> float:
    """Returns the share of the largest class of a task's evaluation set."""
    from xlmr_sweep.data.demo import task_rows

    counts = Counter(row["label"] for row in task_rows(task, seed)["validation"])
    return max(counts.values()) / counts.total()


def main(arguments: list[str]) -> int:
    """Runs the study on one generator seed and checks it."""
    parser = argparse.ArgumentParser(prog="benchmark.py demo_world", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="seed of the generator")
    parser.add_argument("--storage", help="folder to keep; default a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return _measure(options.seed, Path(folder), options.storage)


def _measure(seed: int, folder: Path, storage: str | None) -> int:
    # Imported late, so that --help answers at once.
    import pandas as pd
    import yaml

    from analysis.report import build_report
    from xlmr_sweep.commands import entry
    from xlmr_sweep.commands.exit_status import status_of
    from xlmr_sweep.commands.request import Request
    from xlmr_sweep.study.reading import studies_folder

    console = Console(width=120)
    study = yaml.safe_load((studies_folder() / "demo.yaml").read_text())
    study["data"]["seed"] = seed
    path = folder / "demo.yaml"
    path.write_text(yaml.safe_dump(study))
    storage = storage or str(folder / "runs")
    status = status_of(lambda _: entry.run(Request(str(path), storage), "local", console))
    if status:
        return status
    results = pd.read_parquet(Path(storage) / "results.parquet")
    return _check(console, results, pd.DataFrame(build_report(storage).ipr), seed)


def _check(console: Console, results: pd.DataFrame, ipr: pd.DataFrame, seed: int) -> int:
    larger = results.groupby("model")["num_parameters"].max().idxmax()
    top = results[(results["model"] == larger) & (results["train_size"] == results["train_size"].max())]
    means = top.groupby(["task", "paradigm"])["score"].mean().unstack()
    table = Table("task", "majority", *means.columns, "best", "within", title=f"{larger} at the largest size, seed {seed}")
    good = True
    for task, row in means.iterrows():
        base = majority(str(task), seed)
        fits = base + ABOVE_MAJORITY < row.max() < SATURATED
        good &= fits
        table.add_row(str(task), f"{base:.3f}", *(f"{value:.3f}" for value in row), f"{row.max():.3f}", "yes" if fits else "NO")
    console.print(table)
    pooled = ipr[(ipr["comparison"] == "instructed/prompted") & (ipr["task"] == "average")]
    for cell in pooled.itertuples():
        error = cell.std / math.sqrt(cell.num_seeds)
        console.print(
            f"IPR instructed/prompted, {cell.model}: {cell.mean:.2f} ± {error:.2f} (standard error of {cell.num_seeds})"
        )
        good &= cell.mean > error
    return 0 if good else 1
