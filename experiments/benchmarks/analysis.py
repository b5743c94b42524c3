"""Times the analysis on made-up results: `python experiments/benchmark.py analysis [report] [million] [page] [publish]`.

report   1,260 records and predictions of the paper's grid to a report. Limit: 5 s after imports.
million  IPR and advantage tables, intervals and tests included, of about 1,000,000 rows of parquet. Limits: 20 s, 4 GiB.
page     the report of `report` in headless Chromium: size and time until it answers. Limits: 8 MB, 2 s.
publish  the storage of `report` as a data set in a folder. Limit: 10 s.

Each runs in a process of its own and prints wall time, CPU time (what it takes on an idle machine) and peak memory. Ends
with status 1 where a limit is passed. The scores are random numbers and mean nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("report", "million", "page", "publish")
LIMITS = {
    "report_s": 5.0, "million_s": 20.0, "million_gib": 4.0, "page_mb": 8.0, "page_ready_s": 2.0, "first_figure_s": 2.0,
    "publish_s": 10.0,
}  # fmt: skip
NUM_EVAL = {"boolq": 3270, "cb": 56, "copa": 100, "rte": 277, "wic": 638}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmark.py analysis", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default all")
    parser.add_argument("--inside", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        name, folder = options.inside
        parts = {"report": time_report, "million": time_million, "page": time_page, "publish": time_publish}
        print(json.dumps(parts[name](Path(folder))))
        return 0
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        print(f"Error: no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        return run([name for name in NAMES if name in (options.names or NAMES)], Path(scratch))


def run(names: list[str], folder: Path) -> int:
    if {"report", "page", "publish"} & set(names):
        make_storage(folder / "paper")
    passed = True
    for name in names:
        # Through the dispatcher: run by its path, this file would stand before the package of its name.
        command = [sys.executable, "experiments/benchmark.py", "analysis", "--inside", name, str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed\n{done.stderr.strip()}", file=sys.stderr)
            return 1
        figures = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
        for key, limit in LIMITS.items():
            if figures.get(key, 0) > limit:
                passed = False
                print(f"  {key} is above its limit of {limit}")
    return 0 if passed else 1


def time_report(folder: Path) -> dict[str, float]:
    from analysis.report import build_report

    wall, cpu = time.perf_counter(), time.process_time()
    paths = build_report(folder / "paper")
    return {
        "report_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "page_mb": round(paths.html.stat().st_size / 1e6, 2),
        "peak_gib": peak_gib(),
    }


def time_million(folder: Path) -> dict[str, float]:
    from analysis.advantage import advantage_of_pairs, advantage_table
    from analysis.intervals import with_intervals
    from analysis.ipr import ipr_of_pairs, ipr_table
    from analysis.pairs import paired_curves
    from analysis.significance import with_tests
    from analysis.tables import load

    path = folder / "million.parquet"
    million_rows().to_parquet(path)
    wall, cpu = time.perf_counter(), time.process_time()
    results = load(path)
    pairs = paired_curves(results.rows)
    ipr = ipr_of_pairs(pairs)
    table = with_tests(with_intervals(ipr_table(ipr, results.planned), ipr, "ipr"), ipr, "ipr")
    advantage = advantage_of_pairs(pairs)
    prompts = advantage_table(results.rows, results.planned, advantage)
    return {
        "rows": len(results.rows),
        "million_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "million_gib": peak_gib(),
        "ipr_rows": len(table),
        "advantage_rows": len(prompts),
    }


def time_page(folder: Path) -> dict[str, float]:
    from selenium import webdriver

    from analysis.report import build_report

    html = build_report(folder / "paper").html
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=shutil.which("chromedriver")))
    try:
        driver.set_script_timeout(60)
        driver.get(html.as_uri())
        marks = driver.execute_async_script(
            """
            const done = arguments[0];
            const ready = performance.getEntriesByName("ready")[0].startTime / 1000;
            const began = performance.now();
            const since = () => (performance.now() - began) / 1000;
            const first = document.querySelector(".figure");
            const wait = () => first.dataset.drawn ? all(since()) : setTimeout(wait, 10);
            const all = (one) => window.report.draw().then(() => {
              const drawn = since() - one;
              document.querySelector("#filters input").click();
              window.report.draw().then(() => {
                done([ready, one, document.querySelectorAll("[data-drawn]").length, drawn, since() - one - drawn]);
              });
            });
            first.scrollIntoView();
            wait();
            """
        )
    finally:
        driver.quit()
    return {
        "page_mb": round(html.stat().st_size / 1e6, 2),
        "page_ready_s": round(marks[0], 2),
        "first_figure_s": round(marks[1], 2),
        "figures_drawn": marks[2],
        "all_figures_s": round(marks[3], 2),
        "filter_over_all_figures_s": round(marks[4], 2),
    }


def time_publish(folder: Path) -> dict[str, float]:
    """The whole command in a process of its own, imports included."""
    command = [sys.executable, "-m", "xlmr_sweep.commands.console", "publish", "--storage", str(folder / "paper")]
    wall = time.perf_counter()
    subprocess.run([*command, "--to", str(folder / "published")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = round(time.perf_counter() - wall, 2)
    files = [path for path in (folder / "published").rglob("*") if path.is_file()]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "publish_s": seconds,
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "files": len(files),
        "published_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def million_rows() -> pd.DataFrame:
    """40 models x 3 paradigms x 50 tasks x 7 sizes x 24 seeds, one cell in a hundred missing: 997,920 rows."""
    import numpy as np
    import pandas as pd

    grid = pd.MultiIndex.from_product(
        [
            [f"model-{i}" for i in range(40)],
            ["baseline", "prompted", "instructed"],
            [f"task_{i}" for i in range(50)],
            [2, 4, 8, 16, 32, 64, 128],
            range(24),
        ],
        names=["model", "paradigm", "task", "train_size", "seed"],
    ).to_frame(index=False)
    rng = np.random.default_rng(0)
    gain = grid["paradigm"].map({"baseline": 0.0, "prompted": 0.03, "instructed": 0.06})
    scores = 0.45 + gain + 0.03 * np.log2(grid["train_size"]) + rng.normal(0, 0.03, len(grid))
    return grid.assign(score=scores.clip(0, 1))[rng.random(len(grid)) < 0.99]


def make_storage(folder: Path) -> None:
    """A storage of the paper's grid, with a record and predictions for every trial."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    from xlmr_sweep.storage.files import Storage
    from xlmr_sweep.storage.records import write_record
    from xlmr_sweep.storage.study_file import write_study
    from xlmr_sweep.study.plan import expand
    from xlmr_sweep.study.spec import Study

    hubs = ("FacebookAI/xlm-roberta-base", "FacebookAI/xlm-roberta-large", "facebook/xlm-roberta-xl", "facebook/xlm-roberta-xxl")
    models = [{"name": name, "hub": hub} for name, hub in zip(("base", "large", "xl", "xxl"), hubs, strict=True)]
    study = Study.model_validate({"name": "paper", "models": models, "sizes": [2, 4, 8, 16, 32, 64, 128], "seeds": [0, 1, 2]})
    storage = Storage(folder)
    write_study(storage, study)
    (folder / "predictions").mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = {task: rng.integers(0, 2, size) for task, size in NUM_EVAL.items()}
    for trial in expand(study):
        size = NUM_EVAL[trial.task]
        gain = {"baseline": 0.0, "prompted": 0.03, "instructed": 0.06}[trial.paradigm]
        right = rng.random(size) < min(0.95, 0.5 + gain + 0.03 * np.log2(trial.train_size) + rng.normal(0, 0.02))
        label = labels[trial.task]
        seconds = float(rng.uniform(60, 120))
        write_record(
            storage,
            {
                **trial.as_dict(), "score": float(right.mean()), "metric": "accuracy", "num_eval": size, "total_time_s": seconds,
                "num_gpus": 1.0, "num_ranks": 1, "host": "made-up", "device": "cuda", "version_torch": "2.13.0",
                "spec": {}, "resolved": {},
            },
        )  # fmt: skip
        columns = {
            "example_id": [f"{trial.task}-{i}" for i in range(size)], "label": label,
            "prediction": np.where(right, label, 1 - label), "score_0": rng.random(size), "score_1": rng.random(size),
        }  # fmt: skip
        parquet.write_table(pa.table(columns), folder / "predictions" / f"{trial.trial_id}.parquet")
