"""What a result was made from, and whether that is still what the storage holds. In: records and manifests. Out: what changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import commit_file, mixture_name, model_folder_name, recipe_folder_name, task_data_name
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import ModelSpec, Study


def current_resolution(storage: Storage, study: Study) -> dict[str, str]:
    """Returns the fingerprints of what this storage holds now, by what a trial was made from.

    Keys are `data/<task>`, `weights/<model>` and `instructed/<model>`; what is not in the storage has no key, because then
    there is nothing that a record could contradict.
    """
    present = _made_from(storage, study)
    for model in study.models:
        if model.instructed_folder is None and "instructed" in study.paradigms:
            made = _instructed(storage, study, model)
            if made is not None:
                present[f"instructed/{model.name}"] = made["weights"] + _changed_source(storage, study, model, made, present)
    return present


def _made_from(storage: Storage, study: Study) -> dict[str, str]:
    """Returns the fingerprints of examples and pre-trained weights."""
    names = {f"data/{task.name}": (f"data/{task_data_name(study, task)}/manifest.json", "fingerprint") for task in study.tasks}
    for model in study.models:
        if model.demo is not None:
            names[f"weights/{model.name}"] = (f"models/{model_folder_name(study, model)}/manifest.json", "weights")
        if model.hub is not None:
            names[f"weights/{model.name}"] = (commit_file(model), "commit")
    present = {}
    for key, (name, column) in names.items():
        manifest = storage.read_json(name)
        if manifest is None:
            continue
        if not isinstance(manifest, Mapping) or column not in manifest:
            raise StudyError(f"{storage.path(name)}: lacks {column!r}; delete {PurePosixPath(name).parent} to make it anew")
        present[key] = manifest[column]
    return present


def _instructed(storage: Storage, study: Study, model: ModelSpec) -> Mapping[str, Any] | None:
    folder = f"instruct/{recipe_folder_name(study, model)}"
    manifest = storage.read_json(f"{folder}/manifest.json")
    if manifest is not None and (not isinstance(manifest, Mapping) or "weights" not in manifest):
        raise StudyError(f"{storage.path(f'{folder}/manifest.json')}: lacks 'weights'; delete {folder} to make it anew")
    return manifest


def outdated(storage: Storage, study: Study, model: ModelSpec) -> str:
    """Says what a model's instruction-tuned weights were made from that is another now; empty if they are current or missing."""
    made = _instructed(storage, study, model)
    return "" if made is None else _changed_source(storage, study, model, made, _made_from(storage, study)).strip(" ()")


def _changed_source(storage: Storage, study: Study, model: ModelSpec, made: Mapping[str, Any], present: Mapping[str, str]) -> str:
    mixture = storage.read_json(f"data/{mixture_name(study)}/manifest.json") or {}
    for what, was, now in (
        ("base weights", made.get("base"), present.get(f"weights/{model.name}")),
        ("instruction data", made.get("data"), mixture.get("fingerprint")),
    ):
        if was is not None and now is not None and was != now:
            return f" (made from {what} {was}; {now} are there now)"
    return ""


def _changed(record: Mapping[str, Any], present: Mapping[str, str], trial: Trial) -> str:
    """Says what a record was made from that is no longer so; empty if nothing changed."""
    keys = {"data": f"data/{trial.task}", "weights": f"weights/{trial.model}"}
    if trial.paradigm == "instructed":
        keys["weights"] = f"instructed/{trial.model}"
    resolved = record.get("resolved", {})
    for name, key in keys.items():
        was, now = resolved.get(name), present.get(key)
        if was is not None and now is not None and was != now:
            return f"{name} {was} then, {now} now"
    return ""
