"""A cost model with given times, for tests of order and admission."""

from __future__ import annotations

from dataclasses import dataclass, field

from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.study.plan import Trial


@dataclass
class Fixed(CostModel):
    """Knows the seconds of a trial and of an instruction job by model; others take one second."""

    trials: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, float] = field(default_factory=dict)
    version: int = 0

    def trial_s(self, trial: Trial, amount: float) -> float:
        return self.trials.get(trial.model, 1.0)

    def job_s(self, model: str, amount: float) -> float:
        return self.jobs.get(model, 1.0)
