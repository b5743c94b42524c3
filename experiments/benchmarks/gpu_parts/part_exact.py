"""The part `exact`: the same bits whatever ran before or beside, and the plain way's answers."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.gpu_parts.exact_gated import FAMILIES, against_transformers, same_bits
from benchmarks.gpu_parts.exact_process import cell, digest, open_study
from benchmarks.trial_parts.measures import Target
from benchmarks.trial_parts.worlds import ENCODER_22M, data_texts, make_data, make_encoder, make_study
from rich.console import Console
from rich.table import Table

from xlmr_sweep.modeling.device import pick_device
from xlmr_sweep.training import trial_model
from xlmr_sweep.training.finetune import finetune

A, B, C = "prompted/cb/16/0", "prompted/cb/64/1", "baseline/copa/16/0"
STEPS = 40
ROOT = Path(__file__).resolve().parents[3]


def run(options: Namespace, scratch: Path, console: Console, kept: dict[str, Any]) -> None:
    """Runs trials in several orders, processes and ways."""
    data = make_data(scratch / "data", ("cb", "copa"))
    encoder = make_encoder(scratch / "encoder", ENCODER_22M, data_texts(data))
    path = declare(scratch / "study.yaml", encoder, data, dropout=0.1)
    found: dict[str, list[str]] = {A: [], B: [], C: []}
    names: dict[str, list[str]] = {A: [], B: [], C: []}
    kept |= {"digests": found, "how": names}

    def note(name: str, how: str, value: str) -> None:
        found[name].append(value)
        names[name].append(how)

    study, warm = open_study(path, scratch / "here")
    for name, how in ((A, "first"), (B, "after another"), (C, "after others"), (A, "warm, after others"), (B, "warm")):
        note(name, how, digest(finetune(cell(study, name), warm)))
    modules = [warm.model(cell(study, name), _head()) for name in (A, C)]
    kept["refusals"] = sorted({str(module.static.refusal) for module in modules if module.static and module.static.refusal})
    # Two processes at once: what is cold in one is warm in the other, each beside the other's work.
    for name, value in together(path, scratch, [[B, A], [C, A, B]]):
        note(name, "another process, beside another", value)
    off_study, off = open_study(declare(scratch / "off.yaml", encoder, data, dropout=0.1, gpu_graphs="off"), scratch / "off")
    for name in (A, C):
        note(name, "without a graph", digest(finetune(cell(off_study, name), off)))
    device = pick_device()
    kept["gated"] = {
        family: (*against_transformers(family, device, torch.bfloat16), *same_bits(family, device)) for family in FAMILIES
    }
    kept["farthest"], kept["different"] = against_plain(declare(scratch / "plain.yaml", encoder, data, dropout=0.0), scratch)
    console.print(_table(found, names))


def targets(kept: dict[str, Any]) -> list[Target]:
    """Returns the goals and what was reached."""
    told = [
        Target(f"different bits of {name}", len(set(values)) - 1, 0, at_most=True)
        for name, values in kept.get("digests", {}).items()
        if values
    ]
    if "refusals" in kept:
        told.append(Target("modules whose replay was not the step's bits", len(kept["refusals"]), 0, at_most=True))
    for family, (loss, gradients, results, refusal) in kept.get("gated", {}).items():
        told.append(Target(f"{family}: loss apart from transformers' own in fp32, share", loss, 0.01, at_most=True))
        told.append(Target(f"{family}: gradients apart, share", gradients, 0.05, at_most=True))
        told.append(Target(f"{family}: different bits of a trial", results - 1, 0, at_most=True))
        told.append(Target(f"{family}: refused its graph", int(refusal is not None), 0, at_most=True))
    if "farthest" in kept:
        told.append(Target("probability farthest from the plain way's (bf16)", kept["farthest"], 0.05, at_most=True))
        told.append(Target("answers unlike the plain way's, of 56", kept["different"], 1, at_most=True))
    return told


def declare(path: Path, encoder: Path, data: Path, **finetune: Any) -> Path:
    """Writes the study."""
    make_study(
        path, name="exact", models=[{"name": "encoder", "folder": str(encoder)}], paradigms=["prompted", "baseline"],
        tasks=["cb", "copa"], sizes=[16, 64], seeds=[0, 1], data={"source": "folder", "folder": str(data)},
        finetune={"steps": STEPS, "learning_rate": 1e-4, "precision": "bf16", **finetune},
    )  # fmt: skip
    return path


def together(path: Path, scratch: Path, orders: list[list[str]]) -> list[tuple[str, str]]:
    """Runs trials in several processes at once and returns cells with their hashes.

    Raises:
        RuntimeError: if one fails.
    """
    paths = [str(ROOT), str(ROOT / "experiments"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "benchmarks.gpu_parts.exact_process", str(path)]
    processes = [
        subprocess.Popen([*command, str(scratch / f"process-{i}"), *order], env=environment, stdout=subprocess.PIPE, text=True)
        for i, order in enumerate(orders)
    ]
    try:
        outputs = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("a process beside this one failed")
    lines = [line.split() for output in outputs for line in output.splitlines() if line.startswith("DIGEST")]
    return [(name, value) for _, name, value in lines]


def against_plain(path: Path, scratch: Path) -> tuple[float, int]:
    """Returns how far the probabilities of one trial without dropout are from the plain way's, and unlike answers."""
    tables = []
    for way in ("static", "plain"):
        refusal = "the benchmark asks for it" if way == "plain" else None
        with mock.patch.object(trial_model, "static_refusal", lambda *given, refusal=refusal: refusal):
            study, warm = open_study(path, scratch / way)
            predictions = finetune(cell(study, A), warm).predictions
        tables.append(np.array([predictions[f"score_{i}"] for i in range(3)]))
    return float(np.abs(tables[0] - tables[1]).max()), int((tables[0].argmax(0) != tables[1].argmax(0)).sum())


def _head() -> Any:
    return torch.Generator()


def _table(found: dict[str, list[str]], names: dict[str, list[str]]) -> Table:
    table = Table("trial", "how it ran", "hash of its predictions", title="The same trial, the same bits")
    for name, values in found.items():
        for how, value in zip(names[name], values, strict=True):
            table.add_row(name, how, value)
    return table
