"""The paper's grid on a simulated clock, against the lower bound."""

from __future__ import annotations

from typing import ClassVar

import pytest
from fixed_cost import Fixed
from paper_admission import JOBS, TRIALS, WIDTHS

from xlmr_sweep.scheduling.forecast import lower_bound_s, simulate
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.study.plan import Trial

H = 3600.0


class Paper(Fixed):
    """The paper's hours (table 1): GPU-hours of 315 trials a model, and hours of the instruction jobs."""

    hours: ClassVar = {"xlmr-base": (6.0, 6.0), "xlmr-large": (10.0, 12.0), "xlmr-xl": (70.0, 16.0), "xlmr-xxl": (384.0, 48.0)}

    def trial_s(self, trial: Trial, amount: float) -> float:
        return self.hours[trial.model][0] * H / 315 / amount

    def job_s(self, model: str, amount: float) -> float:
        return self.hours[model][1] * H


@pytest.mark.parametrize(("num_nodes", "bound_h"), [(1, 127.25), (2, 63.625), (3, 53.33), (4, 52.0)])
def test_the_papers_grid_on_a_simulated_clock_is_within_two_percent_of_the_bound(num_nodes: int, bound_h: float) -> None:
    nodes = [Node(64, 8, str(i)) for i in range(num_nodes)]
    bound = lower_bound_s(TRIALS, WIDTHS, nodes, Paper(), JOBS)
    assert bound / H == pytest.approx(bound_h, abs=0.01)
    run = simulate(TRIALS, WIDTHS, nodes, Paper(), jobs=JOBS)
    assert len(run.spans) == 1264
    assert run.makespan_s <= 1.02 * bound
