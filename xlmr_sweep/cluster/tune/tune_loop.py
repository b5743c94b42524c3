"""Tune's control loop as a study needs it.

What differs from Tune's own:

* It asks the admission for trials and never sleeps. Tune's loop looks at every trial of the run in each step, and sleeps for
  seconds when nothing runs.
* It keeps a warm process exactly as long as the admission has a use for it. Tune's loop keeps an idle process and its GPU in case
  a trial comes. It also gives a process that becomes free to a trial whose own process is still starting.
* A process is started with two arguments. Tune's loop passes classes, and to read them the process imports all of Tune.
* It forgets trials that have ended.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.cluster.trial_process import Setup
from xlmr_sweep.cluster.tune.warm_processes import OneActorClass, WarmProcesses
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.study.plan import Trial

IDLE_S = 0.02
"""Pause of a step in which Tune has nothing to wait for, because only instruction jobs run."""


class PlaceholderTrainable(tune.Trainable):  # type: ignore[misc]
    """Stands for `TrialProcess` where a `Tuner` wants a class of Tune's own."""


@contextmanager
def own_loop(setup: ray.ObjectRef[Setup], study: str) -> Iterator[None]:
    """Makes Tune use `SweepLoop` for a `Tuner` that starts within the block, and start its processes with a `Setup`.

    It also leaves signals to the command: Tune would end the run at once on SIGUSR1. A `Tuner` has no option for any of
    this, so three names in Tune's modules are replaced for as long as the block runs.

    Args:
        setup: what the processes are made with, in Ray's object store.
        study: the study's name, which the processes have in theirs.
    """

    def arguments(trial: TuneTrial) -> dict[str, Any]:
        return {"config": trial.config, "setup": setup}

    run: Any = importlib.import_module("ray.tune.tune")
    controller: Any = importlib.import_module("ray.tune.execution.tune_controller")
    before = run.TuneController, run._setup_signal_catching, controller._get_trainable_kwargs
    loop = type("SweepLoop", (SweepLoop,), {"study": study})
    # Tune looks at an event that its signal handler would set.
    run.TuneController, run._setup_signal_catching, controller._get_trainable_kwargs = loop, threading.Event, arguments
    try:
        yield
    finally:
        run.TuneController, run._setup_signal_catching, controller._get_trainable_kwargs = before


class NoWarnings:
    """Stands in for Tune's warnings about trials without resources: here they wait in the admission, which knows why."""

    def on_no_available_trials(self, all_trials: Any) -> None:
        """Says nothing."""


class SweepLoop(TuneController):  # type: ignore[misc]
    """Tune's control loop with the changes that this module names."""

    study = ""
    """The study's name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._actor_cache = WarmProcesses()
        self._class_cache = OneActorClass(self.study)
        self._insufficient_resources_manager = NoWarnings()

    def on_step_end(self) -> None:
        """Ends idle processes and forgets trials that have ended: each would hold 60 kB."""
        super().on_step_end()
        for ended in (self._stopped_trials, self._failed_trials):
            for trial in [trial for trial in ended if trial not in self._trial_to_actor]:
                ended.discard(trial)
                self._trials.remove(trial)
                self._live_trials.discard(trial)
                self._trials_to_cache.discard(trial)
                # The trial is still there if its process died while taking it. It would be counted as starting.
                self._resetting_trials.discard(trial)
                self._trial_metadata.pop(trial.trial_id, None)
        if not self._actor_manager.num_total_actors:
            time.sleep(IDLE_S)

    def _maybe_update_trial_queue(self) -> None:
        """Takes what the admission hands out: as much as warm processes can take, then no more than may start at once.

        A process takes seconds of CPU to start. If all of a node's started at once, all would be late, and with short trials the
        first few would do the work of all.
        """
        while self._actor_cache.num_cached_objects or self._num_starting < self._search_alg.max_starting:
            trial = self._search_alg.next_trial()
            if trial is None:
                self._actor_cache.asked()
                return
            self.add_trial(trial)
            # A warm process takes it at once, so that the next question knows what is left.
            self._maybe_add_actors()
        # Nothing more may start, perhaps for long if processes hang in their start. What has ended is polled all the same.
        self._search_alg.poll()

    def _maybe_add_actors(self) -> None:
        """Gives each trial that was just handed out a warm process, or starts one for it.

        A trial whose process is starting waits for it. Tune's own method gives a process that becomes free to the trial that
        waits longest, and ends the process that was starting for that trial. If trials are shorter than a start, most processes
        then never start.
        """
        added: list[TuneTrial] = self._pending_trials_list
        self._pending_trials_list: list[TuneTrial] = []
        for trial in added:
            if trial in self._pending_trials and trial not in self._staged_trials:
                self._staged_trials.add(trial)
                self._actor_cache.increase_max(trial.placement_group_factory)
                self._class_cache.next_width = Width(**trial.config["width"])
                self._schedule_trial_actor(trial)

    def _schedule_trial_reset(self, trial: TuneTrial, new_config: dict[str, Any], new_experiment_tag: str) -> None:
        """Gives a warm process its next trial, without Tune's own arguments."""
        trial.set_experiment_tag(new_experiment_tag)
        trial.set_config(new_config)
        self._resetting_trials.add(trial)
        self._schedule_trial_task(
            trial, "reset", args=(new_config,), on_result=self._on_trial_reset, on_error=self._trial_task_failure
        )

    def _schedule_trial_train(self, trial: TuneTrial) -> None:
        """Starts a trial as a task with the trial's name, which the dashboard and the state API show."""
        process = trial.temporary_state.ray_actor
        # Tune's actor manager calls methods by their names. This one is `train`, with a name for its task.
        process.train_by_name = process.train.options(name=f"trial {Trial(**trial.config['trial']).cell}")
        self._schedule_trial_task(trial, "train_by_name", on_result=self._on_training_result, on_error=self._trial_task_failure)

    @property
    def _num_starting(self) -> int:
        return len(self._pending_trials) - len(self._resetting_trials)
