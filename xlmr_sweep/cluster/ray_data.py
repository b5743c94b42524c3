"""Preparation of instruction data on Ray Data: parts stream from readers to processes that filter and tokenise them.

In: work and segments. Out: each part that is done, in the order in which they end. What a process writes does not depend on this
module, so the bytes are those of `run_here`. Memory is bounded: a part has some 4 MiB at most, and Ray Data holds readers back
while the other processes are busy. `ray.data` takes a second to import, so it is imported where it is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from xlmr_sweep.cluster.connect import connected
from xlmr_sweep.data.part_work import PartDone, PartWork
from xlmr_sweep.data.row_files import Payload, Segment, UnreachableError
from xlmr_sweep.errors import StorageError, StudyError

if TYPE_CHECKING:
    from ray.data import DataContext

BLOCK_BYTES = 2**22
"""A block has one part, so that all processes have work also where a single packed file is read."""

NUM_READERS = 4
"""Readers at a time. Reading a part takes a hundredth of the time of tokenising it, so they need no CPU of their own."""

ERRORS = {"StudyError": StudyError, "StorageError": StorageError, "UnreachableError": UnreachableError}


class RayDataRunner:
    """Does the work on parts on the cluster; connects to it if nobody has.

    Args:
        address: value of `--address`.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        """Yields each part that is done.

        Raises:
            StudyError: as the work does, or if there is no cluster at the address.
            StorageError: if the storage cannot be written, or if processes die again and again.
        """
        if not segments:
            return
        with ExitStack() as stack:
            if not ray.is_initialized():
                stack.enter_context(connected(self._address))
            context = _context()
            stack.enter_context(context.current(context))
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            yield from _stream(work, segments)


def _context() -> DataContext:
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    return context


def _stream(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
    from ray.data import ActorPoolStrategy, from_items

    num_workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    numbers = from_items(list(range(len(segments))), override_num_blocks=len(segments))
    payloads = numbers.map_batches(
        _read,
        fn_args=[ray.put(list(segments))],
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0.01,
        concurrency=NUM_READERS,
        udf_modifying_row_count=True,
    )
    done = payloads.map_batches(
        _Worker,
        # By reference in a list: an actor that starts again must find it.
        fn_constructor_args=[[ray.put(work)]],
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ActorPoolStrategy(min_size=1, max_size=num_workers),
    )
    try:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for text in batch["found"].to_pylist():
                yield _part(json.loads(text))
    except (StudyError, StorageError):
        raise
    except ray.exceptions.RayError as error:
        said = " ".join(str(getattr(error, "cause", None) or error).split())[:300]
        raise StorageError(f"instruction data: a process of Ray Data failed: {type(error).__name__}: {said}") from None


def _part(found: dict[str, Any]) -> PartDone:
    """Returns a part that is done.

    Raises:
        StudyError: or another error that a process told of in place of a part.
    """
    if "error" in found:
        raise ERRORS[found["error"]](found["message"])
    return PartDone(**found)


def _read(batch: pa.Table, segments: Any) -> Iterator[pa.Table]:
    """Reads the parts of some segments, each a row."""
    every: list[Segment] = ray.get(segments) if isinstance(segments, ray.ObjectRef) else segments
    for number in batch["item"].to_pylist():
        try:
            for payload in every[number].payloads():
                yield _row(payload, "")
        except StudyError as error:
            yield _row(Payload(0, 0, b"", 0), _told(error))


class _Worker:
    """A process that filters and tokenises parts."""

    def __init__(self, work: list[ray.ObjectRef]) -> None:
        self._work: PartWork = ray.get(work[0])

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Returns what is known of the parts, or an error that another try would not cure."""
        return pa.table({"found": [self._done(row) for row in batch.to_pylist()]})

    def _done(self, row: dict[str, Any]) -> str:
        if told := row.pop("error"):
            return str(told)
        try:
            return json.dumps(asdict(self._work(Payload(**row))))
        except (StudyError, StorageError) as error:
            return _told(error)


def _row(payload: Payload, error: str) -> pa.Table:
    values = {**asdict(payload), "error": error}
    types = {"data": pa.large_binary(), "error": pa.string(), "is_table": pa.bool_()}
    return pa.table({name: pa.array([value], types.get(name, pa.int64())) for name, value in values.items()})


def _told(error: Exception) -> str:
    name = next(name for name in ("UnreachableError", "StorageError", "StudyError") if isinstance(error, ERRORS[name]))
    return json.dumps({"error": name, "message": str(error)})
