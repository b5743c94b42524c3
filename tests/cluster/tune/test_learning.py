"""`gpus: auto` on logical GPUs: an admission hands out a study's trials, stand-in work takes them, on a clock that is moved."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xlmr_sweep.cluster.tune.learning import Learning
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.items import Attempt
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.scheduling.widths import read_share, widths_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

GIB = 2**30
NODES = [Node(64, 2, "a")]


def study_of(**sizes: Any) -> Study:
    fields = {"name": "s", "models": [{"name": "m", "hub": "none/m", "gpus": "auto"}], "paradigms": ["baseline", "prompted"]}
    return Study.model_validate({**fields, "sizes": [2, 16, 32, 64, 128], "seeds": [0, 1, 2], **sizes})


class Run:
    """Runs a study's trials to their end. A trial takes so many seconds beside others of its GPU, by their number."""

    def __init__(self, storage: Storage, study: Study, seconds: Mapping[int, float], peak_gib: float = 5) -> None:
        self.said: list[str] = []
        self.widths: list[float] = []
        self._seconds, self._peak_gib, self._now = seconds, peak_gib, 0.0
        self._processes: dict[Any, int] = {}
        widths, probing = widths_of(study, storage, ["m"], NODES)
        self._admission = Admission(
            expand(study), widths, NODES, CostModel(study, {}), probing=probing, clock=lambda: self._now
        )  # fmt: skip
        self._learning = Learning(study, storage, self._admission, self.said.append, lambda: self._now)
        self._run()

    def _run(self) -> None:
        ends: list[tuple[float, int, Any, Any]] = []
        number = 0
        while True:
            while isinstance(attempt := self._admission.next(), Attempt):
                number += 1
                self.widths.append(attempt.width.gpus)
                trial = SimpleNamespace(
                    trial_id=attempt.tune_id, config={"width": attempt.width.as_dict()}, last_result={}
                )  # fmt: skip
                self._learning.on_trial_start(0, [], trial)
                share = round(1 / attempt.width.gpus)
                # A little apart, as real ones are.
                heapq.heappush(ends, (self._now + self._seconds[share] * (1 + 0.01 * (number % 3)), number, trial, attempt))
            if not ends:
                break
            self._now, _, trial, attempt = heapq.heappop(ends)
            self._end(trial, attempt)
        assert self._admission.is_finished

    def _end(self, trial: Any, attempt: Attempt) -> None:
        place = attempt.allocation.bundles[0].gpu_shares[0][0], attempt.width
        # Processes take turns on their place, which is how warm ones are used.
        self._processes[place] = self._processes.get(place, -1) + 1
        pid = f"{place} {self._processes[place] % round(1 / attempt.width.gpus)}"
        self._admission.ended(attempt.tune_id)
        trial.last_result = {
            **attempt.trial.as_dict(), "score": 0.5, "hostname": "h", "pid": pid, "num_gpus": attempt.width.gpus,
            "total_time_s": 1.0, "peak_memory_bytes": int(self._peak_gib * GIB), "device_memory_bytes": 80 * GIB,
            "device_busy": 1.0,
        }  # fmt: skip
        self._learning.on_trial_complete(0, [], trial)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda *args, **options: Run(Storage(tmp_path), study_of(), *args, **options)


def test_a_gpu_that_one_process_fills_gets_one(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run({1: 10, 2: 20})
    assert read_share(Storage(tmp_path), "m") == 1
    assert done.said == [line for line in done.said if line.startswith("model m: one trial takes a whole GPU")]
    assert len(done.said) == 1
    assert done.widths[0] == done.widths[-1] == 1
    assert 0 < sum(width < 1 for width in done.widths) < 60, "two were tried, for a while"
    assert len(run({1: 10}).widths) == 150, "and the next run tries nothing"


def test_two_that_finish_more_are_kept_though_the_gpu_was_busy_all_the_time(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run({1: 10, 2: 12, 4: 25})
    assert read_share(Storage(tmp_path), "m") == 2
    assert done.said[0].startswith("model m: 2 trials share a GPU, because 4 do not finish a tenth more")
    assert done.widths[-1] == 0.5
    assert set(run({2: 12}).widths) == {0.5}


def test_never_more_than_memory_allows(run: Callable[..., Run], tmp_path: Path) -> None:
    done = run({1: 10, 2: 10}, peak_gib=20)
    assert min(done.widths) == 0.5
    assert "2 trials share a GPU, because no more fit on it" in done.said[0]
    alone = Run(Storage(tmp_path / "other"), study_of(), {1: 10}, peak_gib=50)
    assert set(alone.widths) == {1}
    assert alone.said == ["model m: one trial takes a whole GPU, because no more fit on it"]


def test_a_small_study_is_not_searched_and_a_later_run_goes_on(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    few = Run(storage, study_of(sizes=[16], seeds=[0]), {1: 10})
    assert (set(few.widths), few.said, read_share(storage, "m")) == ({1}, [], None)
    assert Run(storage, study_of(), {1: 10, 2: 12, 4: 25}).said
    assert read_share(storage, "m") == 2
