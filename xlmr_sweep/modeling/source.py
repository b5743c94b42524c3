"""Where a model's weights and tokenizer come from. In: a study, its storage and one of its models. Out: a `ModelSource`.

Imports neither torch nor transformers, which a driver that only starts trials does not need.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import commit_file, instruct_folder, manifest_of, pretrained_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.user_cache import user_cache


@dataclass(frozen=True)
class ModelSource:
    """What transformers is asked to load."""

    name: str
    """The study's short name, for messages."""

    location: str
    """A local folder, or a hub id."""

    revision: str | None = None
    """Of a hub id."""

    new_head: bool = False
    """A missing masked-LM head is made new."""


def damaged(source: ModelSource, path: Path, error: Exception) -> StudyError:
    """Returns the error of a file of weights that cannot be read."""
    return StudyError(f"model {source.name}: {path} is damaged: {' '.join(str(error).split())[:200]}; copy the weights again")


def cache_folder(storage: Storage) -> Path:
    """Returns the folder where this node caches copies of what a remote storage holds."""
    return user_cache() / "copies" / fingerprint(storage.uri)


def base_source(storage: Storage, study: Study, model: ModelSpec) -> ModelSource:
    """Returns where the pre-trained weights are.

    Raises:
        StudyError: if transformers would take a folder here for the hub id.
    """
    if model.hub is not None:
        if Path(model.hub).is_dir():
            raise StudyError(
                f"model {model.name}: hub: {model.hub} is also a folder here, {Path(model.hub).resolve()}, and would be read in "
                "the hub's place; give it as folder, or start the command elsewhere"
            )
        kept = storage.read_json(commit_file(model)) or {}
        return ModelSource(model.name, model.hub, kept.get("commit") or model.revision, model.new_head)
    if model.folder is not None:
        return ModelSource(model.name, str(model.folder), None, model.new_head)
    return ModelSource(model.name, str(_local_copy(storage, pretrained_folder(study, model))))


def instructed_source(storage: Storage, study: Study, model: ModelSpec) -> ModelSource:
    """Returns where the instruction-tuned weights are. They must exist already."""
    if model.instructed_folder is not None:
        return ModelSource(model.name, str(model.instructed_folder))
    return ModelSource(model.name, str(_local_copy(storage, instruct_folder(study, model))))


def _local_copy(storage: Storage, name: str) -> Path:
    # Weights may be made again under the same name; an older copy must then not be read.
    weights = (storage.read_json(manifest_of(name)) or {}).get("weights", "")
    return storage.download(name, cache_folder(storage) / str(weights)[:16])
