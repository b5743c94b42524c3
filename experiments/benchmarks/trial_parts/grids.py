"""The same grid twice: a plain Tune grid around the transformers Trainer, and `run_grid.py`.

In: an encoder, data, a grid. Out: wall time, scores and peak unshared memory of both sides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.trial_parts.measures import (
    Cell,
    CellResult,
    Side,
    Target,
    disagreeing,
    farthest,
    most_likely,
    num_different,
    speedup,
)
from benchmarks.trial_parts.watch import newest, python, run_watched
from benchmarks.trial_parts.worlds import make_study
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from xlmr_sweep.data.encoding import training_batches
from xlmr_sweep.data.examples import few_shot, load_task, prepare_task
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import base_source
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.task_metrics import score
from xlmr_sweep.study.tasks import render
from xlmr_sweep.study.template import ASSISTANT_MARK, USER_MARK, ChatTemplate
from xlmr_sweep.training.seeds import derived_seed

MODEL = "encoder"
TRIAL_PROCESSES = ("ray::TrialProcess", "ray::trial ")
"""How the titles of our trial processes begin."""


@dataclass(frozen=True)
class Grid:
    """What both sides run."""

    tasks: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    max_length: int
    batch_size: int = 8
    learning_rate: float = 1e-4
    num_cpus: int = 2
    """Trials at a time, one thread each."""

    @property
    def num_trials(self) -> int:
        """Cells of the grid."""
        return len(self.tasks) * len(self.sizes) * len(self.seeds)


def declare(grid: Grid, encoder: Path, data: Path, path: Path, precision: str) -> Study:
    """Writes the grid as a study file."""
    return make_study(
        path,
        name="trials",
        models=[{"name": MODEL, "folder": str(encoder)}],
        paradigms=["prompted"],
        tasks=list(grid.tasks),
        sizes=list(grid.sizes),
        seeds=list(grid.seeds),
        data={"source": "folder", "folder": str(data)},
        finetune={
            "steps": grid.steps, "batch_size": grid.batch_size, "learning_rate": grid.learning_rate,
            "max_length": grid.max_length, "dropout": 0.0, "precision": precision,
        },
        cluster={"cpus": grid.num_cpus},
    )  # fmt: skip


def run_ours(grid: Grid, encoder: Path, data: Path, scratch: Path, precision: str) -> Side:
    """Runs the grid by `run_grid.py`."""
    path, home = scratch / f"{precision}.yaml", scratch / f"ours-{precision}"
    study = declare(grid, encoder, data, path, precision)
    watched = run_watched(
        python("experiments/run_grid.py", "--study", str(path), "--storage", str(home)), workers=TRIAL_PROCESSES
    )
    (scratch / f"ours-{precision}.log").write_text(watched.output)
    cells: dict[Cell, CellResult] = {}
    for file in sorted((home / "records").glob("*.json")):
        record = json.loads(file.read_text())
        predictions = parquet.read_table(home / f"predictions/{file.stem}.parquet").to_pydict()
        right = sum(a == b for a, b in zip(predictions["label"], predictions["prediction"], strict=True))
        cell = (record["task"], record["train_size"], record["seed"])
        labels = [predictions[f"score_{i}"] for i in range(sum(name.startswith("score_") for name in predictions))]
        rows = [list(row) for row in zip(*labels, strict=True)]
        cells[cell] = CellResult(right, record["score"], rows, record["total_time_s"])
    name = f"run_grid.py, {resolve_precision(study.finetune.precision, torch.device('cpu'))}"
    last = newest(home, "records/*.json") - watched.began_at
    return Side(name, last, watched.total_s, cells, watched.peak_uss_bytes)


def run_plain(grid: Grid, encoder: Path, data: Path, scratch: Path, console: Console) -> Side:
    """Runs the grid by the plain script."""
    study = declare(grid, encoder, data, scratch / "plain.yaml", "fp32")
    prepared = scratch / "prepared"
    declaration, labels, lengths = plain_declaration(grid, study, Storage(prepared), scratch / "cells")
    console.print(f"Prompts: {sum(lengths) / len(lengths):.0f} tokens on average, {max(lengths)} at most", highlight=False)
    path = scratch / "grid.json"
    path.write_text(json.dumps(declaration))
    script = str(Path(__file__).with_name("plain_grid.py"))
    watched = run_watched(python(script, str(path)), workers=("ray::ImplicitFunc",))
    cells: dict[Cell, CellResult] = {}
    for row in json.loads((scratch / "plain.json").read_text()):
        task = study.task(row["task"])
        answers = most_likely(row["probabilities"])
        metric = score(task, labels[task.name], answers)["score"]
        cell = (row["task"], row["train_size"], row["seed"])
        cells[cell] = CellResult(row["num_correct"], metric, row["probabilities"], row["trial_s"])
    last = newest(scratch / "plain", "**/result.json") - watched.began_at
    return Side("plain Tune grid, Trainer, fp32", last, watched.total_s, cells, watched.peak_uss_bytes)


def plain_declaration(
    grid: Grid, study: Study, storage: Storage, folder: Path
) -> tuple[dict[str, Any], dict[str, list[int]], list[int]]:
    """Returns the plain script's declaration, the evaluation labels of each task, and the tokens of each prompt."""
    folder.mkdir()
    tokenizer = load_tokenizer(base_source(storage, study, study.model(MODEL)))
    cells, labels, lengths = [], {}, []
    for name in grid.tasks:
        task = study.task(name)
        prepare_task(study, task, storage)
        rows = load_task(study, task, storage)
        texts = {
            id(row): f"{USER_MARK} {render(task.prompt, row)} {ASSISTANT_MARK} {tokenizer.mask_token}"
            for row in (*rows.train, *rows.validation)
        }
        lengths += _check_same_tokens(tokenizer, study, name, rows.train + rows.validation, list(texts.values()))

        def write(file: str, chosen: Sequence[dict[str, Any]], texts: dict[int, str] = texts) -> str:
            lines = [json.dumps({"text": texts[id(row)], "label": row["label"]}) + "\n" for row in chosen]
            (folder / file).write_text("".join(lines))
            return str(folder / file)

        labels[name] = [row["label"] for row in rows.validation]
        evaluation = write(f"{name}.jsonl", rows.validation)
        for size in grid.sizes:
            for seed in grid.seeds:
                order = torch.Generator().manual_seed(derived_seed(seed, "order"))
                batches = training_batches(list(range(size)), grid.batch_size, grid.steps, order)  # type: ignore[arg-type]
                cells.append(
                    {
                        "task": name, "train_size": size, "seed": seed, "evaluation": evaluation,
                        "train": write(f"{name}-{size}-{seed}.jsonl", few_shot(rows.train, size, seed)),
                        "order": [index for batch in batches for index in batch],
                        "label_tokens": tokenizer.convert_ids_to_tokens(label_token_ids(tokenizer, task)),
                    }
                )  # fmt: skip
    spec = study.finetune
    settings = {
        "model": str(study.model(MODEL).folder), "steps": spec.steps, "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate, "weight_decay": spec.weight_decay, "clip": spec.clip,
        "warmup_steps": -int(-spec.warmup * spec.steps // 1), "max_length": spec.max_length,
    }  # fmt: skip
    return {"num_cpus": grid.num_cpus, "settings": settings, "cells": cells}, labels, lengths


def _check_same_tokens(tokenizer: Any, study: Study, name: str, rows: list[dict[str, Any]], texts: list[str]) -> list[int]:
    """Returns the tokens of each prompt.

    Raises:
        RuntimeError: if both sides would not train on the same.
    """
    ours = [c.input_ids for c in ChatTemplate(tokenizer, study.finetune.max_length).encode_prompts(study.task(name), rows)]
    plain = tokenizer(texts, truncation=True, max_length=study.finetune.max_length)["input_ids"]
    different = sum(a != b for a, b in zip(ours, plain, strict=True))
    if different:
        raise RuntimeError(
            f"task {name}: {different} of {len(rows)} prompts have other tokens as one text than part by part, so the two sides "
            "would not train on the same; choose a tokenizer that splits at spaces, or a greater length"
        )
    return [len(ids) for ids in ours]


def compare(
    grid: Grid, encoder: Path, data: Path, scratch: Path, console: Console, title: str, goals: dict[str, float]
) -> dict[str, Any]:
    """Runs both sides, prints the table and returns its numbers."""
    scratch.mkdir(parents=True, exist_ok=True)
    plain = run_plain(grid, encoder, data, scratch, console)
    console.print(f"{plain.name}: last result after {plain.last_result_s:.1f} s", highlight=False)
    sides = [run_ours(grid, encoder, data, scratch, "fp32")]
    if resolve_precision("auto", torch.device("cpu")) != "fp32":
        sides.append(run_ours(grid, encoder, data, scratch, "auto"))
    exact, ours = sides[0], sides[-1]
    different = disagreeing(plain, exact)
    console.print(_cells_table(title, plain, sides))
    console.print(_sides_table(plain, sides))
    targets = [
        Target("times sooner", speedup(plain, ours), goals["speedup"]),
        Target("cells with more than one example answered differently (fp32)", len(different), 0, at_most=True),
    ]
    if "uss" in goals:
        share = ours.worst_uss_bytes / plain.worst_uss_bytes if plain.worst_uss_bytes else float("nan")
        targets.append(Target("our unshared memory a process, of theirs", share, goals["uss"], at_most=True))
    return {
        "plain": plain.as_dict(), "ours": [side.as_dict() for side in sides], "disagreeing": different,
        "targets": [target.as_dict() for target in targets],
    }  # fmt: skip


def _cells_table(title: str, plain: Side, sides: list[Side]) -> Table:
    names = [plain.name, *(side.name for side in sides)]
    columns = [*(f"score, {name}" for name in names), "right", "answered differently", "probabilities differ", "answers"]
    table = Table("task", "size", "seed", *columns, title=title)
    for cell in sorted(plain.cells):
        found = [side.cells.get(cell) for side in (plain, *sides)]
        scores = ["-" if result is None else f"{result.score:.4f}" for result in found]
        right = " / ".join("-" if result is None else f"{result.num_correct}" for result in found)
        others = [result for result in found[1:] if result is not None]
        apart = " / ".join(f"{num_different(plain.cells[cell], result)}" for result in others)
        by = " / ".join(f"{farthest(plain.cells[cell], result):.0e}" for result in others)
        number = len(set(plain.cells[cell].answers))
        table.add_row(
            cell[0], str(cell[1]), str(cell[2]), *scores, f"{right} of {plain.cells[cell].num_eval}", apart, by,
            f"{number} different" if number > 1 else "all the same",
        )  # fmt: skip
    return table


def _sides_table(plain: Side, sides: list[Side]) -> Table:
    table = Table("", "last result, s", "end, s", "mean of a trial's own time, s", "peak USS a process, GiB", "times sooner")
    for side in (plain, *sides):
        own = sum(result.trial_s for result in side.cells.values()) / max(1, len(side.cells))
        table.add_row(
            side.name, f"{side.last_result_s:.1f}", f"{side.total_s:.1f}", f"{own:.1f}",
            f"{side.worst_uss_bytes / 2**30:.2f}", f"{speedup(plain, side):.2f}",
        )  # fmt: skip
    return table
