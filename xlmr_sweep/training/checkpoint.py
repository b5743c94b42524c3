"""Saves a run between two steps, and goes on from there: bit for bit with as many ranks, resharded with more or fewer.

Out: one safetensors file for each rank, with its slices of weights and AdamW's moments, and `state.json` with the rest. In:
such a folder. Nothing is pickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xlmr_sweep.modeling.fsdp import slice_of
from xlmr_sweep.training.mlm import Progress, Run

STATE = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(run: Run, folder: Path) -> None:
    """Writes this rank's part of a run, and on rank 0 its state, into a folder that all ranks' parts end up in.

    Raises:
        DivergedError: if the loss of a step that is not read yet is not finite. Nothing is written then.
    """
    run.settle()
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, parameter in run.parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        moments = run.steps.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": moments[moment] for moment in MOMENTS if moment in moments}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _file(run.world.rank))
    if run.world.rank == 0:
        shapes = {name: list(parameter.shape) for name, parameter in run.root.named_parameters()}
        state = {"world_size": run.world.size, "shapes": shapes, "progress": run.progress.as_dict()}
        # The state is written last, by a rename: where there is a state, this rank's part is whole.
        partial = folder / f"{STATE}.tmp"
        partial.write_text(json.dumps(state))
        partial.replace(folder / STATE)


def load_checkpoint(run: Run, folder: Path) -> None:
    """Sets a fresh run to the saved step, on this rank.

    Args:
        run: of the same model and settings; its number of ranks may differ.
        folder: with every saved rank's part.

    Raises:
        ValueError: if the checkpoint is of another model.
    """
    state = json.loads((folder / STATE).read_text())
    shapes = {name: list(parameter.shape) for name, parameter in run.root.named_parameters()}
    if shapes != state["shapes"]:
        raise ValueError(f"{folder}: a checkpoint of another model")
    saved = _Saved(folder, state["world_size"])
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            if parameter.numel() == 0:  # There are more ranks than rows of this tensor.
                continue
            length = shapes[name][0]
            part = slice_of(length, run.world.rank, run.world.size)
            parameter.copy_(saved.read(f"weight/{name}", length, part))
            if saved.has(f"exp_avg/{name}"):
                run.steps.restore(parameter, _moments(parameter, name, saved, length, part, state["progress"]["step"]))
    progress = state["progress"]
    run.steps.restored(progress["step"])
    progress["loss_curve"] = [tuple(point) for point in progress["loss_curve"]]
    run.progress = Progress(**progress)


class _Saved:
    """The slices of all saved ranks, read piece by piece."""

    def __init__(self, folder: Path, world_size: int) -> None:
        self._world_size = world_size
        self._paths = [folder / _file(rank) for rank in range(world_size)]
        self._files: dict[int, Any] = {}
        self._names: dict[int, frozenset[str]] = {}

    def has(self, name: str) -> bool:
        return any(name in self._open(rank)[1] for rank in range(self._world_size) if self._paths[rank].exists())

    def read(self, name: str, length: int, part: tuple[int, int]) -> Tensor:
        """Returns rows `part` of a tensor of `length` rows, from the ranks that hold them."""
        pieces = []
        for rank in range(self._world_size):
            low, high = slice_of(length, rank, self._world_size)
            start, end = max(low, part[0]), min(high, part[1])
            if start < end:
                pieces.append(self._open(rank)[0].get_slice(name)[start - low : end - low])
        return torch.cat(pieces)

    def _open(self, rank: int) -> tuple[Any, frozenset[str]]:
        if rank not in self._files:
            self._files[rank] = safe_open(self._paths[rank], framework="pt")
            self._names[rank] = frozenset(self._files[rank].keys())
        return self._files[rank], self._names[rank]


def _moments(
    parameter: nn.Parameter, name: str, saved: _Saved, length: int, part: tuple[int, int], step: int
) -> dict[str, Tensor]:
    device = parameter.device
    moments = {moment: saved.read(f"{moment}/{name}", length, part).to(device) for moment in MOMENTS}
    # Every parameter gets a gradient in every step, so AdamW counted as many steps as the run.
    return {"step": torch.tensor(float(step), device=device), **moments}


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
