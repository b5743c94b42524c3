"""What `benchmark.py schedule` and `faults` conclude from what they measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = str(Path(__file__).resolve().parents[2] / "experiments")


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from benchmarks import schedule

    return schedule


IN_TIME = {"scheduling": "ours", "lower_bound_s": 1199.9999, "simulated": 1.0, "ratio": 1.05}
NOOP = {"s_a_trial": 0.04, "last_over_first": 1.1, "driver_peak_gib": 0.7, "status_s": 2.0}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (IN_TIME, 0),
        (IN_TIME | {"ratio": 1.11}, 1),
        # Of a plain grid, and of a run so short that the starts of processes weigh, nothing is asked.
        (IN_TIME | {"ratio": 3.0, "scheduling": "plain Tune grid"}, 0),
        (IN_TIME | {"ratio": 3.0, "lower_bound_s": 120.0}, 0),
        ({"nodes": 1, "lower_bound_h": 9.0, "ratio": 1.01}, 0),
        ({"nodes": 1, "lower_bound_h": 9.0, "ratio": 1.05}, 1),
        (NOOP, 0),
        (NOOP | {"driver_peak_gib": 1.6}, 1),
        (NOOP | {"status_s": 3.1}, 1),
    ],
)
def test_what_is_beyond_its_goal_is_said_and_ends_with_1(
    row: dict[str, Any], status: int, schedule: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert schedule.show([NOOP, row]) == status
    assert ("Beyond its goal" in capsys.readouterr().out) == bool(status)
