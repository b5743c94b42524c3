"""Processes between two trials. Stands in for two classes of Tune's: its cache of actors and its cache of actor classes."""

from __future__ import annotations

import copy
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import ray

from xlmr_sweep.cluster.trial_process import TrialProcess
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.scheduling.widths import share_in_words

NUMBERS = itertools.count(1)
"""Numbers of processes. Ray refuses a name that is taken, so they go on over all runs of a driver."""


class OneActorClass:
    """Makes every process a `TrialProcess`. Stands in for Tune's `_ActorClassCache`.

    Tune's class gives every process its own runtime environment. Ray then starts Python twice, and cannot use the processes that
    it keeps ready. Tune also passes credentials on in this environment, which shows them in logs and in command lines.

    Args:
        study: the study's name. On the Actors page of Ray's dashboard a process is named by study, number and share.
    """

    def __init__(self, study: str) -> None:
        self._study = study
        self._actor_class = ray.remote(TrialProcess)
        self.next_width = Width(1, 0)
        """What the next process holds."""

    def get(self, trainable_cls: type) -> Any:
        """Returns the class of the next process to start, whatever Tune was told to run."""
        # `options` does not help: it returns no actor class, and Tune's actor manager refuses that. A copy exports nothing anew.
        named = copy.copy(self._actor_class)
        name = f"{self._study} {next(NUMBERS)} ({share_in_words(self.next_width)})"
        named._default_options = {**named._default_options, "name": name}
        return named


class WarmProcesses:
    """Keeps processes between two trials, by the GPUs that they hold. Stands in for Tune's `_ObjectCache`.

    A process whose trial has ended is kept until the admission has been asked what comes next. If nothing takes it then, it ends:
    its GPUs are wanted for something else, or no trial like its last one is left.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
        self._staged: Counter[Any] = Counter()
        self._round = 0

    def asked(self) -> None:
        """Notes that the admission was asked and handed out all that fits now."""
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
        """Yields the processes that nothing took, which Tune then ends."""
        for key, kept in list(self._kept.items()):
            self._kept[key] = [entry for entry in kept if entry[1] == self._round and not force_all]
            yield from [process for process, put in kept if force_all or put != self._round]
            if not self._kept[key]:
                del self._kept[key]
