"""What a storage keeps beside its records. In: `Results` of a storage. Out: manifests of data and weights, shapes of models.

Every field may be empty. The report shows what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.tables import Results
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import Architecture, shape_of
from xlmr_sweep.storage.artifacts import (
    DATA,
    MODELS,
    manifest_of,
    mixture_folder,
    pretrained_folder,
    task_folder,
)

if TYPE_CHECKING:
    from xlmr_sweep.storage.files import Storage
    from xlmr_sweep.study.spec import Study

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Artifacts:
    """The manifests and shapes that a storage has."""

    mixture: Manifest | None = None
    """Manifest of the filtered instruction data."""
    instructed: Mapping[str, Manifest] = field(default_factory=dict)
    """Manifests of the instruction-tuned weights, by model."""
    pretrained: Mapping[str, Manifest] = field(default_factory=dict)
    """Manifests of the models that the study itself pre-trained, by model."""
    task_data: Mapping[str, Manifest] = field(default_factory=dict)
    """Manifests of the tasks' examples, by task."""
    architectures: Mapping[str, Architecture] = field(default_factory=dict)
    """Shapes, by model."""


def artifacts(results: Results) -> Artifacts:
    """Returns what the storage of the results keeps. A bare table has no storage, so it gives nothing.

    A manifest that cannot be read counts as absent. Only figures need it; the results do not.
    """
    if results.storage is None or results.study is None:
        return Artifacts()
    from xlmr_sweep.storage.files import Storage
    from xlmr_sweep.storage.relocated import folder_of, tuned_folder

    study, storage = results.study, Storage(results.storage)
    instructed: dict[str, Manifest] = {}
    pretrained: dict[str, Manifest] = {}
    shapes: dict[str, Architecture] = {}
    for model in study.models:
        folders = {}
        if model.demo is not None:
            folders["pretrained"] = folder_of(storage, MODELS, model.name, partial(pretrained_folder, study, model))
        if model.instructed_folder is None:
            folders["instructed"] = tuned_folder(storage, study, model)
        for kind, found in (("pretrained", pretrained), ("instructed", instructed)):
            manifest = _json(storage, manifest_of(folders[kind])) if kind in folders else None
            if manifest is not None:
                found[model.name] = manifest
        shape = shape_of(study, storage, model)
        if shape is not None:
            shapes[model.name] = shape
    folder = folder_of(storage, DATA, study.instructions.source, partial(mixture_folder, study))
    mixture = _json(storage, manifest_of(folder))
    return Artifacts(mixture, instructed, pretrained, _task_data(storage, study), shapes)


def _task_data(storage: Storage, study: Study) -> dict[str, Manifest]:
    from xlmr_sweep.storage.relocated import folder_of

    asked = {task.name: study.first_asked(task.name) for task in study.tasks}
    names = {name: folder_of(storage, DATA, name, partial(task_folder, study, task)) for name, task in asked.items()}
    found = {task: _json(storage, manifest_of(folder)) for task, folder in names.items()}
    return {task: manifest for task, manifest in found.items() if manifest is not None}


def _json(storage: Storage, name: str) -> Manifest | None:
    try:
        value = storage.read_json(name)
    except (StudyError, OSError):
        return None
    return value if isinstance(value, Mapping) else None
