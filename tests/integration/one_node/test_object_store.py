"""What processes of a node share through Ray's object store: made once, held once, and made again when it is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_encoder
from object_store_process import BIG, Process

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def start(ray_here: None) -> Callable[[], Any]:
    """Returns what starts a process."""
    import ray

    actor = ray.remote(Process)
    return lambda: actor.options(num_cpus=0.1).remote()


def entries() -> list[bytes]:
    from ray.experimental import internal_kv

    from xlmr_sweep.cluster.object_store import NAMESPACE

    found: list[bytes] = internal_kv._internal_kv_list(b"", namespace=NAMESPACE)
    return found


def test_arrays_are_made_once_held_once_and_made_again_when_their_process_is_gone(start: Callable[[], Any]) -> None:
    import ray

    from xlmr_sweep.cluster.object_store import forget_arrays

    first, second, third = (start() for _ in range(3))
    # All at once: one makes them, the others wait and look.
    found = ray.get([process.get.remote("weights", float(i)) for i, process in enumerate((first, second, third), 1)])
    (maker,) = (i for i, row in enumerate(found) if row["made"])
    assert {row["value"] for row in found} == {row["sum"] for row in found} == {maker + 1.0}
    assert all(row["is_shared"] and row["names"] == ["x", "yz"] for row in found)
    # Of 40 MiB no process has an own copy, not even the one that made them.
    processes = [first, second, third]
    grown = ray.get([process.grown.remote() for process in processes])
    assert max(grown) < BIG / 2, grown
    os.kill(ray.get(processes[maker].pid.remote()), signal.SIGKILL)
    others = [process for i, process in enumerate(processes) if i != maker]
    assert ray.get([process.value.remote("weights") for process in others]) == [maker + 1.0] * 2, "what is held stays"
    again = ray.get(start().get.remote("weights", maker + 1.0))
    assert again["value"] == maker + 1.0
    assert ray.get(others[0].get.remote("another", 9.0))["made"]
    assert entries()
    forget_arrays()
    assert entries() == []
    for process in processes:
        ray.kill(process)


def test_what_does_not_fit_stays_a_processs_own_and_is_said_once(start: Callable[[], Any]) -> None:
    import ray

    from xlmr_sweep.cluster.object_store import forget_arrays

    first, second = start(), start()
    # 120 of the 160 MiB that the arrays may take are booked; 60 more are too many, 20 are not.
    assert ray.get(first.get.remote("large", 1.0, 3 * BIG))["is_shared"]
    found = [ray.get(process.get.remote("too large", 2.0, 3 * BIG // 2)) for process in (first, second)]
    assert [row["made"] for row in found] == [True, True]
    assert [row["is_shared"] for row in found] == [False, False]
    assert [row["value"] for row in found] == [2.0, 2.0]
    said = [line for row in found for line in row["said"]]
    assert len(said) == 1
    assert "too large: 0.06 GB do not fit into the 0.04 GB that are left of this node's object store" in said[0]
    assert ray.get(second.get.remote("small", 3.0, BIG // 2))["is_shared"]
    assert not ray.get(first.get.remote("small", 4.0, BIG // 2))["made"]
    # What a process booked that is gone is room again.
    os.kill(ray.get(first.pid.remote()), signal.SIGKILL)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(first.pid.remote())
    assert ray.get(second.get.remote("too large", 5.0, 3 * BIG // 2))["is_shared"]
    forget_arrays()
    ray.kill(second)


def test_what_nobody_holds_any_more_is_made_again(start: Callable[[], Any]) -> None:
    import ray

    from xlmr_sweep.cluster.object_store import forget_arrays

    first, second = start(), start()
    ray.get(second.pid.remote())
    assert ray.get(first.get.remote("lost", 1.0))["made"]
    pid = ray.get(first.pid.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(first.pid.remote())
    # Its memory goes to the next object that needs it.
    filling = ray.put(np.zeros(170 * 2**20, np.uint8))
    del filling
    found = ray.get(second.get.remote("lost", 2.0))
    assert (found["made"], found["value"]) == (True, 2.0)
    assert found["said"] == []
    forget_arrays()
    ray.kill(second)


def test_trials_on_shared_weights_and_data_give_the_bits_of_a_process_of_its_own(
    start: Callable[[], Any], study_file: Callable[..., Path], tmp_path: Path
) -> None:
    import ray

    from xlmr_sweep.modeling.fsdp import World
    from xlmr_sweep.training.finetune import finetune
    from xlmr_sweep.training.warm_state import WarmState

    bert = make_encoder(tmp_path / "bert", "bert")
    models = [{"name": "x", "folder": str(tmp_path / "encoder")}, {"name": "b", "folder": str(bert)}]
    study = load_study(str(study_file(models=models)))
    storage = Storage(tmp_path / "runs")
    for task in study.tasks:
        prepare_task(study, task, storage)
    wanted = [("x", "prompted", "cb"), ("b", "baseline", "copa")]
    cells = {(t.model, t.paradigm, t.task): t for t in expand(study) if (t.train_size, t.seed) == (8, 0)}
    trials = [cells[cell] for cell in wanted]
    alone = [finetune(trial, WarmState(study, storage, World())).predictions for trial in trials]
    processes = [start(), start()]
    found = ray.get([process.finetune.remote(study, storage, trials) for process in processes])
    assert [predictions for predictions, _ in found] == [alone, alone]
    made = [" ".join(key.split(" ")[:3]) for _, keys in found for key in keys]
    assert sorted(made) == ["tokens of b", "tokens of x", "weights of b", "weights of x"], "each was made once"
    for process in processes:
        ray.kill(process)
