"""Admissions of the paper's study on a cluster that exists in name only, for tests of scheduling."""

from __future__ import annotations

from typing import Any

from fixed_cost import Fixed

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Node, Width, instruct_width
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study

PAPER = load_study("paper")
TRIALS = expand(PAPER)
WIDTHS = {"xlmr-base": Width(1, 1 / 4), "xlmr-large": Width(1, 1 / 2), "xlmr-xl": Width(1, 1, 2), "xlmr-xxl": Width(1, 1, 8)}
"""Two that share a GPU and two gangs, so that every kind of width meets the others."""
JOBS = {model.name: instruct_width(model, has_gpus=True) for model in PAPER.models}
EIGHT = [Node(cpus=64, gpus=8, node_id="a")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(trials: list[Trial] = TRIALS, nodes: list[Node] = EIGHT, **options: Any) -> Admission:
    options.setdefault("cost", Fixed())
    return Admission(trials, WIDTHS, nodes, **options)


def taken(admission: Admission) -> list[Any]:
    """Returns what is handed out until nothing more fits."""
    out = []
    while (item := admission.next()) is not None:
        out.append(item)
    return out


def of(model: str, number: int | None = None) -> list[Trial]:
    return [trial for trial in TRIALS if trial.model == model][:number]


def small(nodes: list[Node], **gpus: float) -> tuple[Admission, dict[str, Width]]:
    """An admission of two trials for each model, of the given width in GPUs."""
    widths = {name: Width(1, min(1, share), max(1, int(share))) for name, share in gpus.items()}
    trials = [Trial(name, "prompted", "cb", 8, seed, f"{name}{seed}") for name in gpus for seed in (0, 1)]
    return Admission(trials, widths, nodes, Fixed()), widths
