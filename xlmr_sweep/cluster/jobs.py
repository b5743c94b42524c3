"""The long jobs before the trials: pre-training the demo's models, and instruction tuning, with their progress.

In: a study, its storage, a connected Ray. Out: weights in the storage.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xlmr_sweep.cluster.resources import Node, Width, instruct_width
from xlmr_sweep.errors import StudyError
from xlmr_sweep.identity import model_folder_name, recipe_folder_name
from xlmr_sweep.progress import ProgressDisplay, follow_progress
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study


def check_storage_on_nodes(storage: Storage) -> None:
    """Checks that every node can write the storage and sees what the driver wrote there.

    Raises:
        StudyError: naming the node.
    """
    marker = "tmp/seen-from-nodes"
    storage.write(marker, b"driver")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    checks = [
        _check_node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            storage.uri, marker
        )
        for node in nodes
    ]
    try:
        for node, check in zip(nodes, checks, strict=True):
            try:
                problem = ray.get(check)
            except ray.exceptions.RayError as error:
                problem = f"cannot check the storage: {str(error).strip().splitlines()[-1]}; is the project installed there?"
            if problem:
                raise StudyError(f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {problem}")
    finally:
        storage.delete(marker)


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def _check_node(uri: str, marker: str) -> str:
    try:
        storage = Storage(uri)
        storage.check_writable()
    except StudyError as error:
        return str(error)
    if not storage.exists(marker):
        return f"--storage {uri}: does not hold what the driver wrote; use a folder or URI that all nodes share"
    return ""


def pretrain_models(study: Study, storage: Storage, names: Sequence[str], display: ProgressDisplay) -> None:
    """Pre-trains demo models, each in a task of one CPU, as many at once as there are CPUs.

    Raises:
        ray.exceptions.RayTaskError: if one fails; what it had is kept and goes on next time.
    """
    folders = {name: f"models/{model_folder_name(study, study.model(name))}" for name in names}
    with ExitStack() as stack:
        steps = {folders[name]: stack.enter_context(display.step(f"Pre-training {name}")) for name in names}
        stack.enter_context(follow_progress(storage, steps))
        ray.get([_pretrain.options(name=f"pretrain {name}").remote(study, name, storage) for name in names])


@ray.remote(num_cpus=1, max_retries=2)  # type: ignore[untyped-decorator]
def _pretrain(study: Study, name: str, storage: Storage) -> None:
    from xlmr_sweep.pretrain import pretrain_demo_model

    pretrain_demo_model(study, name, storage)


class _Room:
    """What instruction jobs of this command may take of the cluster at the same time."""

    def __init__(self, cluster: Sequence[Node]) -> None:
        self._cpus = sum(node.cpus for node in cluster)
        self._gpus = sum(node.gpus for node in cluster)
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, width: Width) -> Iterator[None]:
        """Waits for room, and gives it back after the block."""
        with self._changed:
            self._changed.wait_for(lambda: width.total_cpus <= self._cpus and width.total_gpus <= self._gpus)
            self._add(width, -1)
        try:
            yield
        finally:
            with self._changed:
                self._add(width, 1)
                self._changed.notify_all()

    def _add(self, width: Width, sign: int) -> None:
        self._cpus += sign * width.total_cpus
        self._gpus += sign * width.total_gpus


def instruct_models(
    study: Study, storage: Storage, names: Sequence[str], display: ProgressDisplay, cluster: Sequence[Node]
) -> dict[str, Exception]:
    """Instruction-tunes models, one `TorchTrainer` job a model.

    As many run at once as the cluster has room for, in the order given. Ray Train gives up on a job whose ranks get no resources
    within a minute, so a job starts only when its ranks have room.

    Returns:
        What failed, by model; the other models' weights are there.
    """
    from xlmr_sweep.instruct import run_instruct

    has_gpus = any(node.gpus for node in cluster)
    room = _Room(cluster)

    def job(name: str) -> None:
        width = instruct_width(study.model(name), has_gpus)
        with room.taken(width):
            run_instruct(study, name, storage, num_ranks=width.num_bundles, use_gpu=has_gpus, cpus_per_rank=width.cpus)

    failed: dict[str, Exception] = {}
    with ExitStack() as stack:
        steps = {
            f"instruct/{recipe_folder_name(study, study.model(name))}": stack.enter_context(
                display.step(f"Instruction tuning {name}")
            )
            for name in names
        }
        stack.enter_context(follow_progress(storage, steps))
        pool = ThreadPoolExecutor(max(1, len(names)))
        jobs = {name: pool.submit(job, name) for name in names}
        try:
            for name, future in jobs.items():
                try:
                    future.result()
                except Exception as error:
                    # One model's failure must not cost the other models their trials.
                    failed[name] = error
        finally:
            # Not waited for: after Ctrl-C a job's thread still polls a Ray that is about to end.
            pool.shutdown(wait=False, cancel_futures=True)
    return failed
