"""A cost model that was told, for tests of order and admission."""

from __future__ import annotations

from dataclasses import dataclass, field

from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.study.plan import Trial


@dataclass
class Fixed(CostModel):
    """Times as given: seconds a trial by model, seconds a job by model."""

    trials: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, float] = field(default_factory=dict)
    version: int = 0

    def trial_s(self, trial: Trial, amount: float) -> float:
        return self.trials.get(trial.model, 1.0)

    def job_s(self, model: str, amount: float) -> float:
        return self.jobs.get(model, 1.0)
