"""Saves a run between two steps, and goes on from there: bit for bit with as many ranks, resharded with more or fewer.

In: a run. Out: a `Snapshot` in host memory, which any thread writes while the run goes on; a folder of it, with one file of
tensors for each rank and `state.json` with the rest. Nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from xlmr_sweep.errors import StudyError
from xlmr_sweep.training.checkpoint_files import Group, read_tensors, spread, write_tensors
from xlmr_sweep.training.host_copies import HostCopies
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.run_progress import Progress

STATE = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")

FORMAT = 2
"""Of the files. Raised when an earlier version's cannot be read."""


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of a run between two steps."""

    copies: HostCopies
    """Copies of weights and moments; from a GPU they may not have arrived yet."""
    state: dict[str, Any]
    """Everything that is not a tensor, as JSON."""
    is_first: bool
    """Whether this is rank 0."""

    def write(self, folder: Path, group: Group) -> None:
        """Writes this rank's part into a folder that all ranks' parts end up in. All ranks call it together, from any thread.

        Raises:
            OSError: if it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = self.copies.arrived()
        if group is not None:
            from torch.distributed.device_mesh import DeviceMesh

            mesh = DeviceMesh.from_group(group, "cpu")
            shapes = self.state["shapes"]
            tensors = {name: spread(rows, shapes[name.partition("/")[2]][0], mesh) for name, rows in tensors.items()}
        write_tensors(tensors, folder, group)
        if self.is_first:
            # The state is written last, by a rename, when all ranks are done: where there is a state, the folder is whole.
            partial = folder / f"{STATE}.tmp"
            partial.write_text(json.dumps(self.state))
            partial.replace(folder / STATE)


def take_snapshot(run: Run, made_by: str = "") -> Snapshot:
    """Copies a run as it is between two steps. On a GPU the run goes on while the copies are made.

    Args:
        run: after a step.
        made_by: names what the run makes; a checkpoint of something else is refused.

    Raises:
        DivergedError: if the loss of a step that is not read yet is not finite.
    """
    run.settle()
    tensors: dict[str, Tensor] = {}
    for name, parameter in run.parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        moments = run.steps.state.get(parameter, {})
        tensors |= {f"{moment}/{name}": moments[moment] for moment in MOMENTS if moment in moments}
    # A rank without a row of a tensor has no moments of it. The others have them after the first step.
    shapes = {name: list(parameter.shape) for name, parameter in run.root.named_parameters()}
    if run.progress.step:
        for name, parameter in run.parameters.items():
            tensors |= {f"{m}/{name}": parameter.detach() for m in MOMENTS if f"{m}/{name}" not in tensors}
    state = {"format": FORMAT, "made_by": made_by, "shapes": shapes, "progress": run.progress.as_dict()}
    copies = HostCopies(tensors, run.world.device)
    run.before_update = copies.hold
    return Snapshot(copies, json.loads(json.dumps(state)), run.world.rank == 0)


def save_checkpoint(run: Run, folder: Path, made_by: str = "") -> None:
    """Writes this rank's part of a run, and on rank 0 its state, into a folder that all ranks' parts end up in.

    Raises:
        DivergedError: if the loss of a step that is not read yet is not finite. Nothing is written then.
    """
    take_snapshot(run, made_by).write(folder, dist.group.WORLD if run.world.size > 1 else None)


def load_checkpoint(run: Run, folder: Path, made_by: str = "") -> None:
    """Sets a fresh run to the saved step, on this rank. Each rank reads its own slices, straight to its device.

    Args:
        run: a run with the same model and settings. Its number of ranks may differ.
        folder: holds the part of every rank that saved.
        made_by: what `save_checkpoint` was given.

    Raises:
        StudyError: if the checkpoint is of something else or of an earlier version, or if it is damaged.
    """
    shapes = {name: list(parameter.shape) for name, parameter in run.root.named_parameters()}
    state = _state(folder, shapes, made_by)
    step = state["progress"]["step"]
    with torch.no_grad():
        moments = {
            name: {moment: torch.zeros_like(parameter) for moment in MOMENTS} if step else {}
            for name, parameter in run.parameters.items()
        }
        tensors = {f"weight/{name}": parameter.detach() for name, parameter in run.parameters.items()}
        tensors |= {f"{moment}/{name}": rows for name, each in moments.items() for moment, rows in each.items()}
        group = None
        if run.world.size > 1:
            group = dist.group.WORLD
            meshes = {getattr(parameter, "device_mesh", None) for parameter in run.root.parameters()} - {None}
            mesh = next(iter(meshes))
            tensors = {name: spread(rows, shapes[name.partition("/")[2]][0], mesh) for name, rows in tensors.items()}
        try:
            read_tensors(tensors, folder, group)
        except (OSError, ValueError) as error:
            raise StudyError(f"{folder}: the checkpoint is damaged: {error}; delete it") from None
        for name, parameter in run.parameters.items():
            if step and parameter.numel() > 0:
                # Every parameter gets a gradient in every step, so AdamW counted as many steps as the run.
                count = torch.tensor(float(step), device=parameter.device)
                run.steps.restore(parameter, {"step": count, **moments[name]})
    run.steps.restored(step)
    progress = state["progress"]
    for curve in ("loss_curve", "held_out", "zero_shot"):
        # A checkpoint of a job that scored no task may lack their curve.
        progress[curve] = [tuple(point) for point in progress.get(curve, ())]
    run.progress = Progress(**progress)


def _state(folder: Path, shapes: dict[str, list[int]], made_by: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"{folder}: the checkpoint is not whole: {' '.join(str(error).split())}; delete it") from None
    if state.get("format") != FORMAT:
        raise StudyError(
            f"{folder}: a checkpoint of another version of xlmr_sweep; end the job with that version, or delete {folder.parent}"
        )
    if state["made_by"] != made_by:
        raise StudyError(f"{folder}: a checkpoint of another study or recipe ({state['made_by']}, not {made_by}); delete it")
    if state["shapes"] != shapes:
        raise StudyError(f"{folder}: a checkpoint of another model; delete it")
    return state
