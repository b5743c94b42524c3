"""What is scheduled, attempts of trials and instruction jobs, and how much of the cluster each is expected to take. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.free_resources import NOTHING, Allocation
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.study.plan import Trial


@dataclass(frozen=True)
class Attempt:
    """One start of a trial, waiting or started."""

    trial: Trial
    width: Width
    number: int = 1
    """Counts from 1 in each run of the command."""
    not_on: frozenset[str] = frozenset()
    """Ids of nodes to avoid."""
    not_before: float = 0.0
    """Earliest start, on the admission's clock."""
    allocation: Allocation = NOTHING
    began: float = 0.0

    @property
    def tune_id(self) -> str:
        """Tune's id of the attempt: the trial's id, followed by the attempt's number from the second attempt on."""
        return self.trial.trial_id if self.number == 1 else f"{self.trial.trial_id}.{self.number}"

    @property
    def model(self) -> str:
        """The trial's model."""
        return self.trial.model


@dataclass(frozen=True)
class Job:
    """The instruction job of one model and variant, waiting or started."""

    model: str
    """The job's name: its model, and the variant where that has a job of its own (`Trial.job_name`)."""
    width: Width
    not_on: frozenset[str] = frozenset()
    allocation: Allocation = NOTHING
    began: float = 0.0

    @property
    def tune_id(self) -> str:
        """A name that no trial has. Tune does not know of the job."""
        return f"instruct {self.model}"


Item = Attempt | Job


@dataclass(frozen=True)
class ItemCost:
    """Expected time and work of items.

    Amounts of the cluster are GPUs, or CPUs on a cluster without GPUs. Work is an amount times seconds.
    """

    cost: CostModel
    has_gpus: bool

    def amount(self, width: Width) -> float:
        """Returns the amount of the cluster that a width takes."""
        return (width.gpus if self.has_gpus else width.cpus) * width.num_bundles

    def capacity(self, nodes: Iterable[Node]) -> float:
        """Returns the amount that nodes have in all."""
        return sum(node.gpus if self.has_gpus else node.cpus for node in nodes)

    def seconds(self, item: Item) -> float:
        """Returns the expected seconds of an item from its start."""
        amount = self.amount(item.width)
        return self.cost.job_s(item.model, amount) if isinstance(item, Job) else self.cost.trial_s(item.trial, amount)

    def work(self, item: Item) -> float:
        """Returns the expected work of an item."""
        return self.amount(item.width) * self.seconds(item)
