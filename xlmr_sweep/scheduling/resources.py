"""What trials and instruction jobs need of a cluster, and whether the cluster has it. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.model_spec import AUTO, ModelSpec
from xlmr_sweep.study.spec import Study

NODE_LABEL = "ray.io/node-id"
"""The label under which Ray keeps a node's id."""

EPSILON = 1e-6
"""Sums of fractions of a GPU are compared with this tolerance."""


@dataclass(frozen=True)
class Node:
    """What one node offers."""

    cpus: float
    gpus: float
    node_id: str = ""
    """Ray's id of it."""


@dataclass(frozen=True)
class Width:
    """What one trial or job needs: `num_bundles` times (cpus, gpus), one bundle for each rank."""

    cpus: float
    gpus: float
    num_bundles: int = 1

    @property
    def total_cpus(self) -> float:
        """CPUs of all ranks."""
        return self.cpus * self.num_bundles

    @property
    def total_gpus(self) -> float:
        """GPUs of all ranks."""
        return self.gpus * self.num_bundles

    @property
    def size(self) -> tuple[float, float]:
        """GPUs and CPUs of all ranks: what widths are compared by."""
        return self.total_gpus, self.total_cpus

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as a plain dict."""
        return asdict(self)

    def bundles(self) -> list[dict[str, float]]:
        """Returns the bundles of the trial's placement group."""
        bundle = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return [dict(bundle) for _ in range(self.num_bundles)]


def trial_width(model: ModelSpec, has_gpus: bool) -> Width:
    """Returns what a fine-tuning trial of a model needs: a share of a GPU, or ranks with a whole GPU each.

    A model whose share is not measured yet gets a whole GPU. On a cluster without GPUs a trial gets CPUs alone.
    """
    if not has_gpus:
        return Width(model.cpus, 0)
    share = 1.0 if model.gpus == AUTO else min(1.0, model.gpus)
    return Width(model.cpus, share, model.num_ranks)


def instruct_width(model: ModelSpec, has_gpus: bool) -> Width:
    """Returns what a model's instruction job needs: for each rank a CPU, and a GPU if the cluster has GPUs."""
    return Width(1, 1 if has_gpus else 0, model.instruct_ranks)


def num_fitting(width: Width, nodes: Iterable[Node]) -> int:
    """Returns how many bundles of a width the nodes hold at the same time when nothing runs there.

    As in Ray, a fraction of a GPU lies on one GPU, and a whole number takes GPUs that nobody shares.
    """
    return sum(_num_on(node, width) for node in nodes)


def _num_on(node: Node, width: Width) -> int:
    by_cpus = int(node.cpus / width.cpus + EPSILON)
    if not width.gpus:
        return by_cpus
    by_gpus = int(1 / width.gpus + EPSILON) * int(node.gpus) if width.gpus < 1 else int(node.gpus) // round(width.gpus)
    return min(by_cpus, by_gpus)


def check_fits(study: Study, models: Iterable[str], nodes: list[Node], *, instruct: Iterable[str] = ()) -> None:
    """Refuses a cluster on which a trial or an instruction job could never start.

    Args:
        study: the study.
        models: short names of the models with trials to run.
        nodes: the cluster.
        instruct: short names of the models to instruct-tune.

    Raises:
        StudyError: naming the model, what it needs and what there is.
    """
    has_gpus = any(node.gpus for node in nodes)
    if study.cluster.gpus and not has_gpus:
        raise StudyError(
            f"cluster.gpus: study {study.name} expects {study.cluster.gpus:g} GPUs and the cluster has none; "
            "set cluster.gpus: 0 to run it on CPUs"
        )
    wanted = [(name, "a fine-tuning trial", trial_width(study.model(name), has_gpus)) for name in models]
    wanted += [(name, "instruction tuning", instruct_width(study.model(name), has_gpus)) for name in instruct]
    for name, what, width in wanted:
        fitting = num_fitting(width, nodes)
        if fitting < width.num_bundles:
            each = f"{width.cpus:g} CPUs" + (f" and {width.gpus:g} GPUs" if width.gpus else "")
            have = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs on {len(nodes)} nodes"
            raise StudyError(
                f"model {name}: {what} needs {width.num_bundles} x ({each}); the cluster has {have}. "
                "Change the model's gpus, cpus or instruct_ranks, or use a larger cluster"
            )
