"""A stand-in for `torch.cuda` on a machine without one: logs the order of calls and is as late as a real card.

What is "captured" really runs, as it does at a real warm-up, so a capture spoils weights here too. A replay runs the captured
function again, on the buffers of the capture. An event is done only when somebody waited for it. `LateCopies` makes copies that
were asked for with `non_blocking=True` as late as a card may make them.

A stream keeps the order of its own work. It knows nothing of another stream's, unless it waits for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class FakeCuda:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.generator = torch.Generator().manual_seed(99)
        self.queued = self.finished = 0
        self.capturing: FakeGraph | None = None
        self.pools: list[Any] = []
        self.breaks_capture = self.spoils_replay = False
        self.free_bytes = 0
        self.refuses_pinning = False
        self.host: set[int] = set()
        """Where the pinned memory begins."""
        self.late: LateCopies | None = None
        self._current = FakeStream(self)

    def note(self, name: str, function: Callable[[], None]) -> None:
        """Called by a step that runs: a capture remembers which."""
        self.log.append(f"captured {name}" if self.capturing else name)
        if self.capturing:
            self.capturing.function = function

    def manual_seed(self, seed: int) -> None:
        self.log.append("seed")
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)

    def MemPool(self) -> FakePool:
        self.log.append("pool")
        return FakePool()

    @contextmanager
    def use_mem_pool(self, pool: FakePool) -> Iterator[None]:
        self.pools.append(pool.id)
        yield

    def synchronize(self) -> None:
        self.log.append("synchronize")
        self.finished = self.queued
        if self.late is not None:
            self.late.copy_all()

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return self.free_bytes, self.free_bytes

    def device_count(self) -> int:
        return 1

    def pinned(self, num_numbers: int) -> torch.Tensor:
        if self.refuses_pinning:
            raise RuntimeError("CUDA error: out of memory\nmore")
        memory = torch.full((num_numbers,), float("nan"))
        self.host.add(memory.untyped_storage().data_ptr())
        return memory

    def current_stream(self) -> FakeStream:
        return self._current

    def Stream(self) -> FakeStream:
        return FakeStream(self)

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    def CUDAGraph(self) -> FakeGraph:
        return FakeGraph(self)

    @contextmanager
    def graph(self, graph: FakeGraph, *, pool: object, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        if self.breaks_capture:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.capturing = graph
        with self.stream(stream):
            yield
        self.capturing = None

    def Event(self, *, blocking: bool) -> FakeEvent:
        return FakeEvent(self)


class LateCopies(TorchDispatchMode):
    """Makes copies with `non_blocking=True` late: just before the next operation of their stream, or when somebody waits for it.

    The host does not wait for them: what it writes into a buffer meanwhile is copied. An operation on nothing but pinned memory
    is the host's own. Every other one is the card's, on the current stream.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda
        self._queued: dict[FakeStream, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and torch's wrapper for that case would take as long as all the rest."""
        return False

    def __enter__(self) -> Any:
        self._cuda.late = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.copy_all()
        self._cuda.late = None

    def copy(self, stream: FakeStream) -> None:
        """Makes a stream's copies."""
        for into, source in self._queued.pop(stream, []):
            into.copy_(source)

    def copy_all(self) -> None:
        """Makes the copies of all streams, as when the host waits for the card."""
        for stream in list(self._queued):
            self.copy(stream)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        stream = self._cuda.current_stream()
        if func is torch.ops.aten.copy_.default and (kwargs or {}).get("non_blocking", len(args) > 2 and args[2]):
            self._queued.setdefault(stream, []).append((args[0], args[1]))
            return args[0]
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if not tensors or any(tensor.untyped_storage().data_ptr() not in self._cuda.host for tensor in tensors):
            self.copy(stream)
        return func(*args, **(kwargs or {}))


class FakePool:
    def __init__(self) -> None:
        self.id = object()


class FakeStream:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def wait_event(self, event: FakeEvent) -> None:
        self._cuda.log.append("wait")
        self.wait_stream(event.stream)

    def wait_stream(self, other: FakeStream) -> None:
        if self._cuda.late is not None:
            self._cuda.late.copy(other)


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.function: Callable[[], None] | None = None

    def replay(self) -> None:
        assert self.function is not None, "nothing was captured"
        self._cuda.log.append("replay")
        self.function()
        if self._cuda.spoils_replay:
            self.function()


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def record(self) -> None:
        self.stream = self._cuda.current_stream()
        self._cuda.queued += 1
        self._at = self._cuda.queued

    def query(self) -> bool:
        return self._cuda.finished >= self._at

    def synchronize(self) -> None:
        self._cuda.finished = max(self._cuda.finished, self._at)
        self.stream.wait_stream(self.stream)


class NotedStep:
    """A step that tells the stand-in what runs."""

    def __init__(self, step: Any, cuda: FakeCuda) -> None:
        self.step, self._cuda = step, cuda

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.step, name)
        if name not in ("train", "evaluate", "add"):
            return found

        def noted(*inputs: Any) -> None:
            state = vars(self.step.state)
            captured = dict(state)

            def again() -> None:
                # A graph knows addresses: it goes on with the old buffers where others took their names.
                now = dict(state)
                state.update(captured)
                found(*inputs)
                state.update(now)

            self._cuda.note(name, again)
            found(*inputs)

        return noted

    def begin(self) -> None:
        self._cuda.log.append("begin")
        self.step.begin()
