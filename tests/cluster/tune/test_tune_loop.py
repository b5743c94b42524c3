"""Tune's loop as ours: which process takes which trial, and what is forgotten. A stand-in tells when processes start and end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from actors import Actors
from fixed_cost import Fixed
from ray import tune
from ray.tune.experiment import Experiment

from xlmr_sweep.cluster.tune.queue import TuneQueue
from xlmr_sweep.cluster.tune.tune_loop import PlaceholderTrainable, SweepLoop, own_loop
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.study.plan import Trial

ROW = {"score": 0.5, "done": True, "training_iteration": 1, "time_total_s": 1.0}


class Run(tune.Callback):  # type: ignore[misc]
    """A loop on a node of four GPUs, with trials of half a GPU."""

    def __init__(self, num_trials: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ray.tune.execution.tune_controller.RayActorManager", Actors)
        # What Tune would ask Ray.
        monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(folder / "session"))
        monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "8")
        trials = [Trial("m", "prompted", "cb", 8, seed, f"m{seed}") for seed in range(num_trials)]
        self.admission = Admission(trials, {"m": Width(1, 0.5)}, [Node(8, 4, "a")], Fixed())
        self.polls = 0
        queue = TuneQueue(self.admission, self)  # type: ignore[arg-type]
        experiment = Experiment("run", PlaceholderTrainable, storage_path=str(folder))
        queue.add_configurations(experiment)
        self.loop = SweepLoop(search_alg=queue, storage=experiment.storage, reuse_actors=True, callbacks=[self])
        self.actors: Actors = self.loop._actor_manager

    def poll(self) -> None:
        """Called where a run's instruction jobs are polled."""
        self.polls += 1

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.admission.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.admission.ended(trial.trial_id, ok=False)

    def step(self) -> None:
        with own_loop("setup", "paper"):  # type: ignore[arg-type]
            self.loop.step()

    @property
    def calls(self) -> dict[int, str]:
        """What each process works on."""
        return {actor.actor_id: method for actor, (method, *_) in self.actors.tasks.items()}


def test_a_process_that_becomes_free_is_not_given_to_a_trial_whose_own_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(5, tmp_path, monkeypatch)
    run.step()
    assert len(run.actors.starting) == 2, "no more may start at once on eight CPUs"
    first = run.actors.start()
    assert run.calls == {1: "train_by_name"}
    run.step()
    starting = list(run.actors.starting)
    assert len(starting) == 2
    run.actors.answer(first, ROW)
    run.step()
    assert run.calls == {1: "reset"}, "it takes the next trial"
    assert run.actors.starting == starting
    assert run.actors.ended == []
    run.actors.answer(first, True)
    assert run.calls == {1: "train_by_name"}


def test_a_process_that_nothing_takes_is_ended_and_its_trial_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(2, tmp_path, monkeypatch)
    run.step()
    first = run.actors.start()
    second = run.actors.start()
    run.actors.answer(first, ROW)
    run.step()
    assert run.actors.ended == [first]
    run.step()
    assert [trial.trial_id for trial in run.loop.get_trials()] == list(run.admission.live)
    run.actors.answer(second, ROW)
    assert run.loop.is_finished()


def test_a_trial_whose_process_died_while_it_took_it_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(9, tmp_path, monkeypatch)
    run.step()
    first = run.actors.start()
    run.step()
    run.actors.answer(first, ROW)
    run.step()
    assert run.calls == {1: "reset"}
    taken = {trial.trial_id for trial in run.loop.get_trials()}
    run.actors.die(first)
    run.step()
    lost = taken - {trial.trial_id for trial in run.loop.get_trials()}
    assert len(lost) == 1
    assert lost.isdisjoint(run.admission.live)
    # It no longer counts among those that take their next trial: as before, two may start at once.
    while run.actors.starting:
        run.actors.start()
    run.step()
    assert len(run.actors.starting) == 2


def test_jobs_are_polled_also_while_no_more_processes_may_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(5, tmp_path, monkeypatch)
    run.step()
    before = run.polls
    assert len(run.actors.starting) == 2
    run.step()
    assert run.polls == before + 1
    assert len(run.actors.starting) == 2


def test_the_tuners_loop_is_ours_within_the_block_and_tunes_own_after_it() -> None:
    from ray.tune.execution import tune_controller
    from ray.tune.tune import run

    before = tune_controller._get_trainable_kwargs
    of_signals = run.__globals__["_setup_signal_catching"]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)]
    with own_loop("setup", "paper"):
        assert not run.__globals__["_setup_signal_catching"]().is_set()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)] == handlers
        loop: Any = run.__globals__["TuneController"]
        assert issubclass(loop, SweepLoop)
        assert loop.study == "paper"
        trial = SimpleNamespace(config={"trial": 1})
        assert tune_controller._get_trainable_kwargs(trial) == {"config": {"trial": 1}, "setup": "setup"}
    assert run.__globals__["TuneController"] is tune_controller.TuneController
    assert tune_controller._get_trainable_kwargs is before
    assert run.__globals__["_setup_signal_catching"] is of_signals


def test_a_trials_process_imports_neither_tune_nor_torch_before_it_has_work() -> None:
    heavy = {"torch", "ray.tune", "pandas", "transformers"}
    code = f"import sys, xlmr_sweep.cluster.trial_process; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
