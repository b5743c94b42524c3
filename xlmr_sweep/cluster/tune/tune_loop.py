"""Tune's control loop as a study needs it. It asks the admission and never sleeps on it, keeps a warm process exactly as long as
the admission has a use for it, and forgets trials that are through.

Tune's own looks at every trial of the run in each round, sleeps for seconds whenever nothing runs, keeps an idle process and its
GPU for whatever may come, and gives a process that becomes free to a trial whose own is still starting. It also gives every
process a runtime environment of its own, for which Ray starts Python twice and uses none of the processes that it has ready; and
arguments whose classes import all of Tune there.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.cluster.trial_process import Setup, TrialProcess
from xlmr_sweep.study.plan import Trial

IDLE_S = 0.02
"""Waits so long where Tune has nothing to wait for, because only instruction jobs run."""


CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""Variables of the driver that Tune hands on to its processes."""


class PlaceholderTrainable(tune.Trainable):  # type: ignore[misc]
    """Stands for `TrialProcess` where a `Tuner` wants a class of Tune's own."""


@contextmanager
def own_loop(setup: ray.ObjectRef[Setup]) -> Iterator[None]:
    """Makes Tune use this module's loop, and `TrialProcess` as the actors, for a `Tuner` that starts within the block.

    Args:
        setup: what the processes are made with, in Ray's object store.
    """

    def arguments(trial: TuneTrial) -> dict[str, Any]:
        return {"config": trial.config, "setup": setup}

    with (
        mock.patch.object(sys.modules["ray.tune.tune"], "TuneController", SweepLoop),
        mock.patch.object(sys.modules["ray.tune.execution.tune_controller"], "_get_trainable_kwargs", arguments),
    ):
        yield


class OneActorClass:
    """Takes the place of Tune's cache of actor classes (`_ActorClassCache`)."""

    def __init__(self) -> None:
        handed_on = {name: os.environ[name] for name in CREDENTIALS if name in os.environ}
        # Not by `options`: what that returns is no actor class, and Tune's actor manager refuses it.
        make = ray.remote(runtime_env={"env_vars": handed_on}) if handed_on else ray.remote
        self._actor_class = make(TrialProcess)

    def get(self, trainable_cls: type) -> Any:
        """Returns the actor class, whatever Tune was told to run."""
        return self._actor_class


class WarmProcesses:
    """Processes between two trials, by what they hold, GPUs included. Takes the place of Tune's own cache (`_ObjectCache`).

    A process that ended its trial is kept until the admission was asked what comes next. What that did not take is ended: its
    room belongs to something else, or nothing like it is left.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
        self._staged: Counter[Any] = Counter()
        self._round = 0

    def asked(self) -> None:
        """The admission was asked, and all it handed out is known."""
        self._round += 1

    @property
    def num_cached_objects(self) -> int:
        """Number of processes kept."""
        return sum(map(len, self._kept.values()))

    @property
    def total_max_objects(self) -> int:
        """Number of staged trials."""
        return sum(self._staged.values())

    def increase_max(self, key: Any, by: int = 1) -> None:
        """Notes that a trial is staged."""
        self._staged[key] += by

    def decrease_max(self, key: Any, by: int = 1) -> None:
        """Notes that a staged trial started."""
        self._staged[key] -= by

    def has_cached_object(self, key: Any) -> bool:
        """Tells whether a process of that kind is kept."""
        return bool(self._kept.get(key))

    def cache_object(self, key: Any, process: Any) -> bool:
        """Keeps a process."""
        self._kept[key].append((process, self._round))
        return True

    def pop_cached_object(self, key: Any) -> Any:
        """Returns a kept process, or None."""
        return self._kept[key].pop(0)[0] if self._kept.get(key) else None

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """Yields the processes that nothing took, to be ended."""
        for key, kept in list(self._kept.items()):
            self._kept[key] = [entry for entry in kept if entry[1] == self._round and not force_all]
            yield from [process for process, put in kept if force_all or put != self._round]
            if not self._kept[key]:
                del self._kept[key]


class _Nothing:
    """Stands in for Tune's warnings of trials that find no room: here they wait in the admission, which knows why."""

    def on_no_available_trials(self, all_trials: Any) -> None:
        """Says nothing."""


class SweepLoop(TuneController):  # type: ignore[misc]
    """Tune's control loop with the changes that this module names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._actor_cache = WarmProcesses()
        self._class_cache = OneActorClass()
        self._insufficient_resources_manager = _Nothing()

    def _maybe_update_trial_queue(self) -> None:
        """Takes what the admission hands out; beyond what warm processes can take, no more than may start at once.

        A process that starts is seconds of CPU. All of a node's at once would all be late, and with short trials or the last
        ones the first few do the work of all.
        """
        while self._actor_cache.num_cached_objects or self._num_starting < self._search_alg.max_starting:
            trial = self._search_alg.next_trial()
            if trial is None:
                self._actor_cache.asked()
                return
            self.add_trial(trial)
            # A warm process takes it at once, so that the next question knows what is left.
            self._maybe_add_actors()
        # Nothing more is asked for now, but what has ended is seen: the places may be taken for long by processes that hang.
        self._search_alg.poll()

    def _maybe_add_actors(self) -> None:
        """Gives what was handed out a warm process, or starts one for it, and leaves those that wait for theirs alone.

        Tune's own gives every process that becomes free to the trial that waits longest for a starting one, which it ends: where
        trials are shorter than a start, most of a node's processes never came to be.
        """
        added: list[TuneTrial] = self._pending_trials_list
        self._pending_trials_list: list[TuneTrial] = []
        for trial in added:
            if trial in self._pending_trials and trial not in self._staged_trials:
                self._staged_trials.add(trial)
                self._actor_cache.increase_max(trial.placement_group_factory)
                self._schedule_trial_actor(trial)

    def _schedule_trial_reset(self, trial: TuneTrial, new_config: dict[str, Any], new_experiment_tag: str) -> None:
        """Gives a warm process its next trial, and nothing of Tune's."""
        trial.set_experiment_tag(new_experiment_tag)
        trial.set_config(new_config)
        self._resetting_trials.add(trial)
        self._schedule_trial_task(
            trial, "reset", args=(new_config,), on_result=self._on_trial_reset, on_error=self._trial_task_failure
        )

    def _schedule_trial_train(self, trial: TuneTrial) -> None:
        """Starts a trial under its own name, which is what the dashboard and the state API show of it."""
        process = trial.temporary_state.ray_actor
        # Tune's actor manager takes methods by name, as they are; this one is `train` with a name for its task.
        process.train_by_name = process.train.options(name=f"trial {Trial(**trial.config['trial']).cell}")
        self._schedule_trial_task(trial, "train_by_name", on_result=self._on_training_result, on_error=self._trial_task_failure)

    @property
    def _num_starting(self) -> int:
        return len(self._pending_trials) - len(self._resetting_trials)

    def on_step_end(self) -> None:
        """Ends idle processes and forgets trials that are through, each of which would hold 60 kB."""
        super().on_step_end()
        for through in (self._stopped_trials, self._failed_trials):
            for trial in [trial for trial in through if trial not in self._trial_to_actor]:
                through.discard(trial)
                self._trials.remove(trial)
                self._live_trials.discard(trial)
                self._trials_to_cache.discard(trial)
                # Still there if its process died while it took the trial; it would count as one that is not starting.
                self._resetting_trials.discard(trial)
                self._trial_metadata.pop(trial.trial_id, None)
        if not self._actor_manager.num_total_actors:
            time.sleep(IDLE_S)
