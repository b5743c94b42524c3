"""What Tune is handed: trials bound to the GPUs that the admission allocated."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fixed_cost import Fixed
from ray.tune.experiment import Experiment

from xlmr_sweep.cluster.tune.queue import TuneQueue
from xlmr_sweep.cluster.tune.tune_loop import PlaceholderTrainable
from xlmr_sweep.cluster.tune.warm_processes import WarmProcesses
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Requeue
from xlmr_sweep.study.plan import Trial


def test_a_process_is_only_given_to_a_trial_on_the_same_gpus(tmp_path: Path) -> None:
    now = [0.0]
    models = {"small": Width(1, 0.25), "wide": Width(1, 1)}
    trials = [Trial(name, "prompted", "cb", 8, k, f"{name}{k}") for name, n in (("wide", 1), ("small", 7)) for k in range(n)]
    admission = Admission(trials, models, [Node(64, 2, "a")], Fixed(), clock=lambda: now[0])
    queue = TuneQueue(admission, SimpleNamespace(poll=lambda: None))  # type: ignore[arg-type]
    queue.add_configurations(Experiment("run", PlaceholderTrainable, storage_path=str(tmp_path)))

    def handed_out() -> list[tuple[str, Any]]:
        found = []
        while (trial := queue.next_trial()) is not None:
            trial.create_placement_group_factory()
            found.append((trial.trial_id, trial.placement_group_factory))
        return found

    (wide, _), *small = handed_out()
    assert len(small) == 4, "on the second GPU"
    processes = WarmProcesses()
    assert processes.cache_object(small[0][1], "warm")
    admission.ended(small[0][0])
    ((_, following),) = handed_out()
    assert processes.pop_cached_object(following) == "warm"
    # The wide one and one of the second GPU run again a little later; the last two use the first GPU meanwhile.
    admission.requeue(admission.ended(wide, ok=False), Requeue(delay_s=1))
    meanwhile = handed_out()
    assert len(meanwhile) == 2
    admission.requeue(admission.ended(small[1][0], ok=False), Requeue(delay_s=1))
    now[0] = 2.0
    for tune_id, on_the_first in meanwhile:
        admission.ended(tune_id)
        processes.cache_object(on_the_first, tune_id)
    again = dict(handed_out())
    assert set(again) == {f"{wide}.2", f"{small[1][0]}.2"}
    assert not any(processes.has_cached_object(bundles) for bundles in again.values()), "their GPU is the wide one's now"
