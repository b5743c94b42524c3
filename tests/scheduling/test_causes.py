"""The cause of a failure, and what failures of the same kind share."""

from __future__ import annotations

import pytest
from failure_rows import error

from xlmr_sweep.scheduling.causes import Cause, cause_of, fingerprint, raised_at


@pytest.mark.parametrize(
    ("name", "message", "cause"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB", Cause.OUT_OF_MEMORY),
        ("MemoryError", "", Cause.OUT_OF_MEMORY),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", Cause.OUT_OF_MEMORY),
        ("WorkerDiedError", "Task was killed due to the node running low on memory.", Cause.OUT_OF_MEMORY),
        ("WorkerDiedError", "(1) the process was killed by the OOM killer due to high memory usage, (2) ray stop", Cause.LOST),
        ("PreemptedError", "", Cause.PREEMPTED),
        ("RuntimeError", "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4321", Cause.LOST),
        ("DistNetworkError", "address already in use", Cause.LOST),
        ("RuntimeError", "[gloo/transport/tcp/buf.cc:78] Timed out waiting 300000ms for recv operation to complete", Cause.HUNG),
        ("DistBackendError", "store->get('0') got error: wait timeout after 300000ms, keys: /0", Cause.HUNG),
        ("ValueError", "Timed out waiting", Cause.ERROR),
        ("TrialStalledError", "", Cause.HUNG),
        ("TrialTimeoutError", "", Cause.HUNG),
        ("DivergedError", "the loss is nan", Cause.DIVERGED),
        ("StorageError", "No space left on device", Cause.STORAGE),
        ("OSError", "[Errno 28] No space left on device: '/x'", Cause.STORAGE),
        ("ValueError", "shapes", Cause.ERROR),
        ("RuntimeError", "shapes", Cause.ERROR),
    ],
)
def test_causes(name: str, message: str, cause: Cause) -> None:
    assert cause_of({"error_class": name, "message": message}) is cause


def test_the_same_traceback_is_the_same_place_whatever_it_says() -> None:
    assert fingerprint(error(message="got 3")) == fingerprint(error(message="got 4"))
    assert fingerprint(error(120)) != fingerprint(error(121))
    assert raised_at(error(120)) == "finetune.py:120"
