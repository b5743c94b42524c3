"""A checkpoint's files: `torch.distributed.checkpoint` with one safetensors file a rank. Nothing is pickled.

In: tensors by name, cut along their first dimension over ranks that may be others next time. Out: a folder, or the same tensors
filled from one. The files are written from the tensors' own memory: no second copy is made, and other threads go on meanwhile.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
"""Types of numbers by their names in safetensors."""

Group = Any
"""A process group of torch, or None for one process."""


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, group: Group) -> None:
    """Writes this rank's part of some tensors. All ranks of the group call it together.

    Args:
        tensors: tensors in host memory; a `DTensor` where ranks hold slices.
        folder: made if missing; each rank may have another.
        group: the ranks' process group, with gloo.

    Raises:
        OSError: if a rank cannot write; on every rank.
    """
    writer = _Writer(str(folder), save_distributed=True)
    try:
        with _quiet():
            save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise _first(error) from None


def read_tensors(tensors: Mapping[str, Tensor], folder: Path, group: Group) -> None:
    """Fills tensors in place, on whichever device they are. All ranks of the group call it together.

    Args:
        tensors: this rank's; a `DTensor` where ranks hold slices.
        folder: holds the files of all ranks that saved. Their number may differ from that of the group.
        group: the ranks' process group, with gloo.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if the files are damaged or hold other tensors.
    """
    try:
        with _quiet():
            reader = HuggingFaceStorageReader(str(folder))
            load(dict(tensors), storage_reader=reader, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        cause = _first(error)
        raise cause if isinstance(cause, OSError) else ValueError(" ".join(str(cause).split())) from None
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def spread(local: Tensor, length: int, mesh: Any) -> Tensor:
    """Returns a tensor whose rows lie on several ranks, from this rank's rows.

    Args:
        local: this rank's rows, by the rule of `torch.chunk`.
        length: rows in all.
        mesh: device mesh of the ranks.
    """
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size([length, *local.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    whole: Tensor = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
    return whole


class _Writer(HuggingFaceStorageWriter):
    """Writes a rank's items into one file, with the header that torch's reader of such files expects."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        name = f"rank-{plan.storage_data['shard_index'] - 1:05d}.safetensors"
        done: Future[list[WriteResult]] = Future()
        done.set_result(_write(Path(str(self.path)) / name, plan.items, planner) if plan.items else [])
        return done


def _write(path: Path, items: list[WriteItem], planner: SavePlanner) -> list[WriteResult]:
    tensors = [planner.resolve_data(item) for item in items]
    offsets = {item.index.fqn: {"saved_offsets": list(_offset(item))} for item in items}
    header: dict[str, Any] = {"__metadata__": {"DCP_SHARDING_INFO": json.dumps(offsets), "format": "pt"}}
    results, place = [], 0
    for item, tensor in zip(items, tensors, strict=True):
        assert isinstance(tensor, Tensor)
        end = place + tensor.nbytes
        header[item.index.fqn] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        results.append(WriteResult(item.index, tensor.nbytes, _StorageInfo(path.name, place, tensor.nbytes)))
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            assert isinstance(tensor, Tensor)
            # Other threads run while the file takes these bytes.
            file.write(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return results


def _offset(item: WriteItem) -> torch.Size:
    assert item.tensor_data is not None
    return item.tensor_data.chunk.offsets


def _first(error: CheckpointException) -> Exception:
    """Returns what went wrong on the first rank that failed. torch's own class is no `Exception`."""
    cause = next(iter(error.failures.values()))[0]
    return cause if isinstance(cause, Exception) else RuntimeError(str(cause))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's warning that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def world_group(size: int) -> Group:
    """Returns a group of all ranks for messages beside those of training, None for one rank. All ranks call it together."""
    return dist.new_group(backend="gloo") if size > 1 else None
