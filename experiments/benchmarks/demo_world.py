"""Whether the demo world measures anything, on any generator seed: `python experiments/benchmark.py demo_world --seed 11`.

Runs the whole demo study on that seed and prints, a task, the majority class and the larger model's best paradigm at the largest
size, and the pooled IPR of instructed over prompted with its standard error. Exit status 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from analysis.report import build_report
from xlmr_sweep.commands import entry
from xlmr_sweep.commands.entry import Request
from xlmr_sweep.data.demo import task_rows
from xlmr_sweep.study.reading import studies_folder

ABOVE_MAJORITY, SATURATED = 0.10, 0.97


def majority(task: str, seed: int) -> float:
    """Returns the share of the largest class of a task's evaluation set."""
    labels = pd.Series([row["label"] for row in task_rows(task, seed)["validation"]])
    return float(labels.value_counts(normalize=True).max())


def main(arguments: list[str]) -> int:
    """Runs the study on one generator seed and checks it."""
    parser = argparse.ArgumentParser(prog="benchmark.py demo_world", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="seed of the generator")
    parser.add_argument("--storage", help="folder to keep; default a temporary one")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        study = yaml.safe_load((studies_folder() / "demo.yaml").read_text())
        study["data"]["seed"] = options.seed
        path = Path(folder) / "demo.yaml"
        path.write_text(yaml.safe_dump(study))
        storage = options.storage or str(Path(folder) / "runs")
        request = Request(str(path), storage)
        status = entry.main(lambda _: entry.run(request, "local", console))
        if status:
            return status
        paths = build_report(storage)
        results = pd.read_parquet(Path(storage) / "results.parquet")
        return _check(console, results, pd.DataFrame(paths.ipr), study, options.seed)


def _check(console: Console, results: pd.DataFrame, ipr: pd.DataFrame, study: dict[str, object], seed: int) -> int:
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
