"""Arrays that the processes of a node share through Ray's object store: weights, tokenised data.

The first process that needs a key makes the arrays and puts them; the others get views of the same memory, without a copy. Which
object holds a key stands in Ray's own key-value store, so no process of ours has to live for it. An object lives as long as the
process that put it. Where it is gone (that process ended, the node died) the next one that asks makes the arrays again.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from xlmr_sweep.modeling.memory_pages import unmap
from xlmr_sweep.training.shared_arrays import Arrays, num_bytes

log = logging.getLogger("xlmr_sweep.trial")

NAMESPACE = b"xlmr_sweep"

STORE_SHARE = 0.8
"""Part of a node's object store that the arrays take at most; in a full store Ray would write objects to disk."""

GET_TIMEOUT_S = 120
"""An object of this node is there at once; one that Ray had to put on disk is read again."""


class ObjectStoreArrays:
    """The arrays of this process's node and Ray job. A process that asks for a key waits while another one makes its arrays."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._node = context.get_node_id()
        self._prefix = _prefix(context.get_job_id(), self._node)
        self._held: dict[str, Any] = {}
        """References to what this process put."""

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns the arrays of a key as views of shared memory; a process's own, where they do not fit into the store."""
        found = self._look(key)
        if found is not None:
            return found
        with _locked(key):
            found = self._look(key)
            return self._put(key, make()) if found is None else found

    def _look(self, key: str) -> Arrays | None:
        entry = internal_kv._internal_kv_get(self._entry(key), namespace=NAMESPACE)
        if not entry:
            return None
        *_, reference = cloudpickle.loads(entry)
        if reference is None:
            return None
        try:
            references = cloudpickle.loads(reference)
            arrays: Arrays = dict(zip(references, ray.get(list(references.values()), timeout=GET_TIMEOUT_S), strict=True))
        except (ray.exceptions.RayError, ValueError):
            # The process that put it is gone, and the object with it.
            log.info("%s is no longer in the object store", key)
            return None
        return arrays

    def _put(self, key: str, arrays: Arrays) -> Arrays:
        size = num_bytes(arrays)
        if not self._book(key, size):
            return arrays
        references, shared = {}, {}
        try:
            # One by one, and let go of at once, so that this process never holds all of it twice.
            for name, array in arrays.items():
                references[name] = ray.put(array)
                shared[name] = ray.get(references[name])
                unmap([array, shared[name]])
        except (ray.exceptions.RayError, OSError) as error:
            internal_kv._internal_kv_del(self._entry(key), namespace=NAMESPACE)
            log.warning("%s: the object store does not take %.2f GB (%s); each process reads for itself", key, size / 1e9, error)
            return arrays
        self._held[key] = references
        # Pickled by us, so that Ray does not let go of the object before this process ends.
        self._note(key, size, cloudpickle.dumps(references))
        return shared

    def _book(self, key: str, size: int) -> bool:
        """Notes how much of the store a key takes; returns whether there is room."""
        with _locked(self._node):
            taken = 0
            for name in internal_kv._internal_kv_list(self._prefix, namespace=NAMESPACE):
                entry = internal_kv._internal_kv_get(name, namespace=NAMESPACE)
                if not entry or name == self._entry(key):
                    continue
                bytes_of, owner, _ = cloudpickle.loads(entry)
                if Path(f"/proc/{owner}").exists():
                    taken += bytes_of
                else:  # Ray may give the memory to others.
                    internal_kv._internal_kv_del(name, namespace=NAMESPACE)
            room = STORE_SHARE * store_bytes(self._node) - taken
            if size > room:
                self._say_once(key, size, room)
                return False
            self._note(key, size, None)
            return True

    def _note(self, key: str, size: int, reference: bytes | None) -> None:
        entry = cloudpickle.dumps((size, os.getpid(), reference))
        internal_kv._internal_kv_put(self._entry(key), entry, overwrite=True, namespace=NAMESPACE)

    def _say_once(self, key: str, size: int, room: float) -> None:
        said = self._prefix.replace(b"arrays:", b"said:", 1) + key.encode()
        if not internal_kv._internal_kv_put(said, b"1", overwrite=False, namespace=NAMESPACE):
            log.warning(
                "%s: %.2f GB do not fit into the %.2f GB that are left of this node's object store; "
                "each process reads for itself (give Ray more: ray start --object-store-memory)", key, size / 1e9, room / 1e9,
            )  # fmt: skip

    def _entry(self, key: str) -> bytes:
        return self._prefix + key.encode()


def forget_arrays() -> None:
    """Deletes the entries of this job from Ray's key-value store; its objects end with the processes that put them."""
    with suppress(Exception):  # A Ray that is going down takes its notes with it.
        prefix = _prefix(ray.get_runtime_context().get_job_id(), "")
        for name in (prefix, prefix.replace(b"arrays:", b"said:", 1)):
            internal_kv._internal_kv_del(name, del_by_prefix=True, namespace=NAMESPACE)


def store_bytes(node_id: str) -> float:
    """Returns the size of a node's object store."""
    return next((node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["NodeID"] == node_id), 0.0)


def _prefix(job: str, node: str) -> bytes:
    return f"arrays:{job}:{node}".encode()


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Lets one process of this machine in at a time. The kernel opens the lock of a process that dies."""
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    handle = os.open(folder / f"arrays-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
