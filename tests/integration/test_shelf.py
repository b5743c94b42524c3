"""What processes of a node share through Ray's object store: made once, held once, and made again when it is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_encoder

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.plan import Trial, expand
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study, load_study

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIG = 40 * 2**20


class Process:
    """A trial's process, as far as it uses the shelf."""

    def __init__(self) -> None:
        from xlmr_sweep.cluster.shelf import RayShelf

        self.shelf = RayShelf()
        self.held: dict[str, Any] = {}
        self.said: list[str] = []

    def get(self, key: str, value: float, size: int = BIG) -> dict[str, Any]:
        """Takes an array from the shelf; `value` is what it holds where this process makes it."""
        import logging

        made: list[bool] = []

        class Listen(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:  # noqa: N805 - self is the process.
                self.said.append(record.getMessage())

        def make() -> dict[str, np.ndarray]:
            made.append(True)
            return {"a b": np.full(size // 4, value, np.float32), "names": np.array(["x", "yz"])}

        logger = logging.getLogger("xlmr_sweep.trial")
        logger.handlers = [Listen()]
        before = own_bytes()
        arrays = self.shelf.get(key, make)
        self.held[key] = arrays
        array = arrays["a b"]
        return {
            "made": bool(made),
            "value": float(array[-1]),
            "sum": float(array.mean()),
            "names": arrays["names"].tolist(),
            "is_shared": not array.flags.writeable,
            "grown": own_bytes() - before,
            "said": self.said,
        }

    def value(self, key: str) -> float:
        """Returns what a held array holds now."""
        return float(self.held[key]["a b"].mean())

    def pid(self) -> int:
        """Returns this process's id."""
        return os.getpid()

    def finetune(self, study: Study, storage: Storage, trials: list[Trial]) -> list[Any]:
        """Runs trials with shared weights and data."""
        from xlmr_sweep.finetune import finetune
        from xlmr_sweep.modeling.fsdp import World
        from xlmr_sweep.workbench import Workbench

        bench = Workbench(study, storage, World(), self.shelf)
        found = [finetune(trial, bench).predictions for trial in trials]
        weights = bench.starting_weights(trials[0]).tensors.values()
        return [found, [tensor.numpy().flags.writeable for tensor in weights]]


def own_bytes() -> int:
    """Returns this process's unshared memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[], Any]]:
    """Starts processes on a Ray with an object store of 200 MiB."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False)
    actor = ray.remote(Process)
    yield lambda: actor.options(num_cpus=0.1).remote()
    ray.shutdown()


def entries() -> list[bytes]:
    from ray.experimental import internal_kv

    from xlmr_sweep.cluster.shelf import NAMESPACE

    found: list[bytes] = internal_kv._internal_kv_list(b"", namespace=NAMESPACE)
    return found


def test_arrays_are_made_once_held_once_and_made_again_when_their_process_is_gone(start: Callable[[], Any]) -> None:
    import ray

    from xlmr_sweep.cluster.shelf import clear_shelves

    first, second, third = (start() for _ in range(3))
    # All at once: one makes them, the others wait and look.
    found = ray.get([process.get.remote("weights", float(i)) for i, process in enumerate((first, second, third), 1)])
    (maker,) = (i for i, row in enumerate(found) if row["made"])
    assert {row["value"] for row in found} == {row["sum"] for row in found} == {maker + 1.0}
    assert all(row["is_shared"] and row["names"] == ["x", "yz"] for row in found)
    # Of 40 MiB no process has an own copy, not even the one that made them.
    assert all(row["grown"] < BIG / 4 for row in found), found
    processes = [first, second, third]
    os.kill(ray.get(processes[maker].pid.remote()), signal.SIGKILL)
    others = [process for i, process in enumerate(processes) if i != maker]
    assert ray.get([process.value.remote("weights") for process in others]) == [maker + 1.0] * 2, "what is held stays"
    again = ray.get(start().get.remote("weights", maker + 1.0))
    assert again["value"] == maker + 1.0
    assert ray.get(others[0].get.remote("another", 9.0))["made"]
    assert entries()
    clear_shelves()
    assert entries() == []
    for process in processes:
        ray.kill(process)


def test_what_does_not_fit_stays_a_processs_own_and_is_said_once(start: Callable[[], Any]) -> None:
    import ray

    from xlmr_sweep.cluster.shelf import clear_shelves

    first, second = start(), start()
    # 120 of the 160 MiB that the shelf may take are booked; 60 more are too many, 20 are not.
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
    clear_shelves()
    for process in (first, second):
        ray.kill(process)


def test_an_object_that_is_lost_is_made_again(start: Callable[[], Any]) -> None:
    import ray
    from ray._private.internal_api import free
    from ray.experimental import internal_kv

    from xlmr_sweep.cluster.shelf import NAMESPACE

    first, second = start(), start()
    assert ray.get(first.get.remote("lost", 1.0))["made"]
    (name,) = (name for name in entries() if name.endswith(b"lost"))
    _, reference = ray.cloudpickle.loads(internal_kv._internal_kv_get(name, namespace=NAMESPACE))
    free([ray.cloudpickle.loads(reference)])
    found = ray.get(second.get.remote("lost", 2.0))
    assert (found["made"], found["value"]) == (True, 2.0)
    assert ray.get(first.value.remote("lost")) == 1.0, "what is held stays"
    for process in (first, second):
        ray.kill(process)


def test_trials_on_shared_weights_and_data_give_the_bits_of_a_process_of_its_own(
    start: Callable[[], Any], study_file: Callable[..., Path], tmp_path: Path
) -> None:
    import ray

    from xlmr_sweep.finetune import finetune
    from xlmr_sweep.modeling.fsdp import World
    from xlmr_sweep.workbench import Workbench

    bert = make_encoder(tmp_path / "bert", "bert")
    models = [{"name": "x", "folder": str(tmp_path / "encoder")}, {"name": "b", "folder": str(bert)}]
    study = load_study(str(study_file(models=models)))
    storage = Storage(tmp_path / "runs")
    for task in study.tasks:
        prepare_task(study, task, storage)
    wanted = [("x", "prompted", "cb"), ("b", "baseline", "copa")]
    cells = {(t.model, t.paradigm, t.task): t for t in expand(study) if (t.train_size, t.seed) == (8, 0)}
    trials = [cells[cell] for cell in wanted]
    alone = [finetune(trial, Workbench(study, storage, World())).predictions for trial in trials]
    processes = [start(), start()]
    for predictions, writeable in ray.get([process.finetune.remote(study, storage, trials) for process in processes]):
        assert predictions == alone
        assert not any(writeable), "the weights are those of the store"
    for process in processes:
        ray.kill(process)
