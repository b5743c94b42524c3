"""The part `memory`: what a trial takes by arithmetic, against what the allocator reserved for the shapes of the part `step`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.part_step import time_static
from benchmarks.gpu_parts.shapes import EVERY_SHAPE, SHAPES, cb_lengths, config_of
from benchmarks.trial_parts.measures import Target
from rich.console import Console
from rich.table import Table

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.gpu.footprint import footprint
from xlmr_sweep.modeling.gpu.packing import rung


def run(options: Namespace, scratch: Path, console: Console, found: dict[str, Any]) -> None:
    """Runs each shape, unless the part `step` just did."""
    measured = {row["shape"]: row for row in getattr(options, "measured", [])}
    table = Table("shape", "by arithmetic, GiB", "reserved, GiB", "apart", title="Memory of a trial")
    found["rows"] = []
    for name in options.shape or SHAPES:
        lengths = [128] * 16 if name == "XL" else cb_lengths()
        reserved = (measured.get(name) or time_static(name, lengths))["peak_reserved_bytes"]
        predicted = predict(name, sum(lengths))
        found["rows"].append({"shape": name, "predicted_bytes": predicted, "peak_reserved_bytes": reserved})
        table.add_row(name, f"{predicted / 2**30:.2f}", f"{reserved / 2**30:.2f}", f"{_apart(found['rows'][-1]):+.1%}")
    console.print(table)


def targets(found: dict[str, Any]) -> list[Target]:
    """Returns the goals and what was reached."""
    return [
        Target(f"{row['shape']}, prediction apart from the reserved", abs(_apart(row)), 0.1, at_most=True)
        for row in found.get("rows", [])
    ]


def _apart(row: dict[str, Any]) -> float:
    ratio: float = row["predicted_bytes"] / row["peak_reserved_bytes"]
    return ratio - 1


def predict(name: str, num_tokens: int) -> float:
    """Returns the bytes of a trial of a shape, evaluated on three times its training batch."""
    architecture = Architecture.from_config(config_of(EVERY_SHAPE[name]).to_dict())
    assert architecture is not None
    return footprint(architecture, rung(num_tokens), rung(3 * num_tokens)).total
