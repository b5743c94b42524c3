"""Arrays that the processes of a node share through Ray's object store: weights, tokenised data.

The first process that needs a key makes its arrays and puts them there. The others get views of the same memory, without a copy.
Ray's key-value store says which object holds a key, so no process of ours has to stay alive for that. An object lives as long as
the process that put it. If it is gone, because that process ended or the node died, the next process that asks makes it again.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from xlmr_sweep.modeling.memory_pages import unmap
from xlmr_sweep.training.shared_arrays import Arrays, num_bytes

log = logging.getLogger("xlmr_sweep.trial")

NAMESPACE = b"xlmr_sweep"

STORE_SHARE = 0.8
"""The part of a node's object store that the arrays may take. From a full store Ray would move objects to disk."""

GET_TIMEOUT_S = 120
"""An object of this node is there at once, unless Ray had moved it to disk and has to read it again."""


class _Entry(NamedTuple):
    """What Ray's key-value store holds under a key."""

    num_bytes: int
    pid: int
    """The process that made the arrays."""
    references: str | None
    """Ray's references to the arrays by name, pickled and in base64; None while the arrays are being made.

    Only Ray's own pickle of a reference tells another process who holds the object. A process that takes the arrays reads it.
    """


class ObjectStoreArrays:
    """The arrays of this process's node and Ray job. A process that asks for a key waits while another one makes its arrays."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._node = context.get_node_id()
        self._prefix = _prefix(context.get_job_id(), self._node)
        self._held: dict[str, Any] = {}
        """References to the objects that this process put. They keep the objects alive."""

    @property
    def made(self) -> list[str]:
        """Keys of the arrays that this process made, sorted."""
        return sorted(self._held)

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns the arrays of a key as views of shared memory, or as this process's own if they do not fit into the store."""
        found = self._find(key)
        if found is not None:
            return found
        with _locked(key):
            found = self._find(key)
            return self._put(key, make()) if found is None else found

    def _find(self, key: str) -> Arrays | None:
        entry = _read_entry(self._entry(key))
        if entry is None or entry.references is None:
            return None
        try:
            references = cloudpickle.loads(base64.b64decode(entry.references))
            arrays: Arrays = dict(zip(references, ray.get(list(references.values()), timeout=GET_TIMEOUT_S), strict=True))
        except (ray.exceptions.RayError, ValueError):
            # The process that put it is gone, and the object with it.
            log.info("%s is no longer in the object store", key)
            return None
        return arrays

    def _put(self, key: str, arrays: Arrays) -> Arrays:
        size = num_bytes(arrays)
        if not self._reserve(key, size):
            return arrays
        references, shared = {}, {}
        try:
            # Array by array, each unmapped at once, so that this process never holds all of them twice.
            for name, array in arrays.items():
                references[name] = ray.put(array)
                shared[name] = ray.get(references[name])
                unmap([array, shared[name]])
        except (ray.exceptions.RayError, OSError) as error:
            internal_kv._internal_kv_del(self._entry(key), namespace=NAMESPACE)
            log.warning("%s: the object store does not take %.2f GB (%s); each process reads for itself", key, size / 1e9, error)
            return arrays
        self._held[key] = references
        # Pickling a reference makes Ray keep the object until this process ends.
        self._write_entry(key, size, base64.b64encode(cloudpickle.dumps(references)).decode())
        return shared

    def _reserve(self, key: str, size: int) -> bool:
        """Reserves memory of the store for a key. Returns whether there is enough."""
        with _locked(self._node):
            taken = 0
            for name in internal_kv._internal_kv_list(self._prefix, namespace=NAMESPACE):
                entry = _read_entry(name)
                if entry is None or name == self._entry(key):
                    continue
                if Path(f"/proc/{entry.pid}").exists():
                    taken += entry.num_bytes
                else:  # With its process gone, Ray may give the memory to others.
                    internal_kv._internal_kv_del(name, namespace=NAMESPACE)
            free = STORE_SHARE * store_bytes(self._node) - taken
            if size > free:
                self._warn_once(key, size, free)
                return False
            self._write_entry(key, size, None)
            return True

    def _write_entry(self, key: str, size: int, references: str | None) -> None:
        entry = json.dumps(_Entry(size, os.getpid(), references)).encode()
        internal_kv._internal_kv_put(self._entry(key), entry, overwrite=True, namespace=NAMESPACE)

    def _warn_once(self, key: str, size: int, free: float) -> None:
        warned = self._prefix.replace(b"arrays:", b"warned:", 1) + key.encode()
        if not internal_kv._internal_kv_put(warned, b"1", overwrite=False, namespace=NAMESPACE):
            log.warning(
                "%s: %.2f GB do not fit into the %.2f GB that are left of this node's object store; "
                "each process reads for itself (give Ray more: ray start --object-store-memory)", key, size / 1e9, free / 1e9,
            )  # fmt: skip

    def _entry(self, key: str) -> bytes:
        return self._prefix + key.encode()


def _read_entry(name: bytes) -> _Entry | None:
    content = internal_kv._internal_kv_get(name, namespace=NAMESPACE)
    return _Entry(*json.loads(content)) if content else None


def forget_arrays() -> None:
    """Deletes this job's entries from Ray's key-value store. The objects end with the processes that put them."""
    with suppress(Exception):  # If Ray is going down, its entries go too.
        prefix = _prefix(ray.get_runtime_context().get_job_id(), "")
        for name in (prefix, prefix.replace(b"arrays:", b"warned:", 1)):
            internal_kv._internal_kv_del(name, del_by_prefix=True, namespace=NAMESPACE)


def store_bytes(node_id: str) -> float:
    """Returns the size of a node's object store."""
    return next((node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["NodeID"] == node_id), 0.0)


def _prefix(job: str, node: str) -> bytes:
    return f"arrays:{job}:{node}".encode()


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Holds a lock of this machine. The kernel releases it if the process dies."""
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    handle = os.open(folder / f"arrays-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
