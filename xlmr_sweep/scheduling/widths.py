"""The width of each model's trials: as declared, or for `gpus: auto` as measured by the model's first trial. Pure, except that it
keeps what it learns in the storage.

A model of unknown width runs one trial alone on a whole GPU, or on all CPUs of a node where there are no GPUs. The trial's peak
memory is kept in `learned/<model>.json`, and on CPUs how many cores it kept busy. On GPUs memory bounds the number of trials that
share one. Which number finishes the most trials an hour is found while the study's trials run (`shares`), and kept there too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from xlmr_sweep.scheduling.resources import Node, Width, num_fitting, trial_width
from xlmr_sweep.scheduling.shares import ShareSearch
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.learned import learn, read_learned
from xlmr_sweep.study.model_spec import AUTO, ModelSpec
from xlmr_sweep.study.spec import Study

MEASURED = "measured"
"""Key of `learned/<model>.json`: what the first trial measured."""

SHARE = "share"
"""Key of `learned/<model>.json`: how many trials share a GPU, and the trials an hour by which that was chosen."""

MIN_WIDTH = "min_width"
"""Key of `learned/<model>.json`: the smallest width (cpus, gpus, num_bundles) that may be enough: smaller ones were not."""

MEMORY_MARGIN = 1.2
"""Another task or a longer text may need more memory than the trial that measured, although that was the longest expected."""

PROCESS_BYTES = 600 * 2**20
"""GPU memory of a process outside its allocator, as `CONTEXT_BYTES` of `modeling.device`, which imports torch."""

MAX_TRIALS = 16
"""Most trials that share a GPU."""


@dataclass(frozen=True)
class Measured:
    """What a model's first trial needed, alone on a whole GPU or node."""

    on_gpu: bool
    peak_bytes: int
    """Peak of the GPU's allocator, or of the process."""
    total_bytes: int
    """Memory of the GPU, or of the machine."""
    busy: float | None
    """CPU cores that worked on average. Of a GPU the share of the time it worked, which decides nothing. None if not known."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Measured | None:
        """Returns what a finished trial's row measured; None if it lacks that."""
        if not row.get("peak_memory_bytes") or not row.get("device_memory_bytes"):
            return None
        peak, total = int(row["peak_memory_bytes"]), int(row["device_memory_bytes"])
        return cls(bool(row.get("num_gpus")), peak, total, row.get("device_busy"))


def widths_of(study: Study, storage: Storage, names: Sequence[str], nodes: Sequence[Node]) -> tuple[dict[str, Width], list[str]]:
    """Returns the width of each model's trials, and the models that have to measure it first."""
    has_gpus = any(node.gpus for node in nodes)
    widths, probing = {}, []
    for name in names:
        model = study.model(name)
        if model.gpus != AUTO:
            widths[name] = at_least(trial_width(model, has_gpus), storage, name, nodes)
            continue
        measured = read_measured(storage, name)
        if measured is None or measured.on_gpu != has_gpus:
            probe = probe_width(model, nodes)
            widths[name] = at_least(probe, storage, name, nodes)
            # A model whose trials ran out of memory on a whole GPU needs no fraction to be measured.
            probing += [name] if widths[name] == probe else []
        else:
            width = width_for(measured, model, nodes, read_share(storage, name) or 1)
            widths[name] = at_least(width, storage, name, nodes)
    return widths, probing


def probe_width(model: ModelSpec, nodes: Sequence[Node]) -> Width:
    """Returns the width of the trial that measures: a whole GPU, or all CPUs of the smallest node."""
    if any(node.gpus for node in nodes):
        return Width(model.cpus, 1)
    return Width(max(model.cpus, min(node.cpus for node in nodes)), 0)


def width_for(measured: Measured, model: ModelSpec, nodes: Sequence[Node], share: int = 1) -> Width:
    """Returns the width that follows from a measurement, for so many trials on a GPU if as many fit there."""
    if not measured.on_gpu:
        by_memory = max(1, int(measured.total_bytes / (measured.peak_bytes * MEMORY_MARGIN)))
        cores = math.ceil(measured.busy - 0.25) if measured.busy else 1
        cpus = min(node.cpus for node in nodes)
        return Width(min(cpus, max(model.cpus, cores, cpus / by_memory)), 0)
    return Width(model.cpus, 1 / min(share, most_on_gpu(measured, model, nodes)))


def most_on_gpu(measured: Measured, model: ModelSpec, nodes: Sequence[Node]) -> int:
    """Returns how many trials fit on one GPU by its memory with a margin, and by the CPUs of the node with the fewest a GPU."""
    by_memory = max(1, int(measured.total_bytes / (measured.peak_bytes * MEMORY_MARGIN + PROCESS_BYTES)))
    by_cpus = max(1, min(int(node.cpus / (node.gpus * model.cpus)) for node in nodes if node.gpus))
    return min(by_memory, by_cpus, MAX_TRIALS)


def read_measured(storage: Storage, model: str) -> Measured | None:
    """Returns what was measured of a model, or None."""
    try:
        return Measured(**read_learned(storage, model)[MEASURED])
    except (KeyError, TypeError):
        return None


def keep_measured(storage: Storage, model: str, measured: Measured) -> None:
    """Keeps what was measured of a model."""
    learn(storage, model, **{MEASURED: asdict(measured)})


def read_share(storage: Storage, model: str) -> int | None:
    """Returns how many trials of a model share a GPU by what was measured; None if that was not found yet."""
    try:
        return max(1, int(read_learned(storage, model)[SHARE]["trials_a_gpu"]))
    except (KeyError, TypeError, ValueError):
        return None


def keep_share(storage: Storage, model: str, found: ShareSearch) -> None:
    """Keeps how many trials of a model share a GPU, and why."""
    learn(storage, model, **{SHARE: {"trials_a_gpu": found.share, "trials_an_hour": found.rates, "why": found.why}})


def at_least(width: Width, storage: Storage, model: str, cluster: Collection[Node]) -> Width:
    """Returns a model's width, or the larger one that earlier runs found it needs, if this cluster could hold that."""
    known = read_learned(storage, model).get(MIN_WIDTH)
    try:
        learned = Width(**known) if known else width
    except TypeError:
        return width
    # A width in CPUs says nothing about a width in GPUs.
    comparable = bool(learned.gpus) == bool(width.gpus)
    fits = num_fitting(learned, cluster) >= learned.num_bundles
    return learned if comparable and fits and learned.size > width.size else width


def next_larger(width: Width, cluster: Collection[Node]) -> Width | None:
    """Returns the next larger width: twice the share of a GPU, then 1, 2, 4, 8 GPUs with a rank each. On CPUs, twice as many.

    Returns:
        None if the cluster could not hold it.
    """
    if width.gpus and width.gpus < 1:
        parts = max(1, round(1 / width.gpus) // 2)
        wider = replace(width, gpus=1 / parts)
    elif width.gpus:
        wider = replace(width, num_bundles=2 * width.num_bundles)
    else:
        wider = replace(width, cpus=2 * width.cpus)
    holds = num_fitting(wider, cluster)
    if holds < wider.num_bundles and not width.gpus:
        # The last width is the whole of the largest node.
        most = max((node.cpus for node in cluster), default=0.0)
        return replace(width, cpus=most) if most > width.cpus else None
    return wider if holds >= wider.num_bundles else None


def share_in_words(width: Width) -> str:
    """Returns a width in words, for example `1/4 of a GPU`."""
    if not width.gpus:
        return f"{width.total_cpus:g} CPU{'s' * (width.total_cpus != 1)}"
    return f"1/{round(1 / width.gpus)} of a GPU" if width.gpus < 1 else f"{width.total_gpus:g} GPU{'s' * (width.total_gpus != 1)}"
