"""What results were made from, and whether the storage still holds that. In: manifests of a storage. Out: `Sources`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import commit_file, instruct_folder, manifest_of, mixture_folder, pretrained_folder, task_folder
from xlmr_sweep.storage.doubts import Cell, doubts
from xlmr_sweep.storage.family_doubts import family_doubts
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.text_doubts import TextDoubts
from xlmr_sweep.study.identity import READING_VERSION
from xlmr_sweep.study.input_files import instruction_files
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study


@dataclass(frozen=True)
class Sources:
    """Fingerprints of the data and weights that a storage holds now.

    What the storage lacks has no key. A record cannot contradict it.
    """

    examples: Mapping[str, str]
    """Of prepared examples, by task."""

    weights: Mapping[str, str]
    """Of a demo model's pre-trained weights, or a hub model's commit; by model."""

    instructed: Mapping[str, str]
    """Of the instruction-tuned weights that the study made, by model. Where their sources have changed, the text says how."""

    outdated: Mapping[str, str]
    """Models whose instruction-tuned weights were made from other base weights or data, with what changed."""

    doubts: Mapping[Cell, str] = field(default_factory=dict)
    """Why records of an earlier reading are not trusted; by model, paradigm and task."""

    family_doubts: Mapping[Cell, str] = field(default_factory=dict)
    """Why records that name no family are not trusted; by model, paradigm and task."""

    texts: TextDoubts | None = None
    """The same for what the texts of a task hold."""

    def of(self, trial: Trial) -> dict[str, str | None]:
        """Returns what a trial is made from: `data` and `weights`."""
        weights = self.instructed if trial.paradigm == "instructed" else self.weights
        return {"data": self.examples.get(trial.task), "weights": weights.get(trial.model)}

    def changed(self, record: Mapping[str, Any], trial: Trial) -> str:
        """Says which source of a trial's record has changed since then; empty if none has."""
        resolved = record.get("resolved", {})
        for name, now in self.of(trial).items():
            was = resolved.get(name)
            if was is not None and now is not None and was != now:
                return f"{name} {was} then, {now} now"
        cell = (trial.model, trial.paradigm, trial.task)
        if resolved.get("reading", 1) < READING_VERSION:
            known = self.doubts.get(cell, "") or (self.texts.of(trial.model, trial.task) if self.texts else "")
            if known:
                return known
        return "" if record.get("family") else self.family_doubts.get(cell, "")


def read_sources(storage: Storage, study: Study) -> Sources:
    """Reads what a storage holds of a study's examples and weights.

    Raises:
        StudyError: if a manifest is damaged.
    """
    examples = {task.name: _value(storage, manifest_of(task_folder(study, task)), "fingerprint") for task in study.tasks}
    weights: dict[str, str | None] = {}
    for model in study.models:
        if model.demo is not None:
            weights[model.name] = _value(storage, manifest_of(pretrained_folder(study, model)), "weights")
        if model.hub is not None:
            weights[model.name] = _value(storage, commit_file(model), "commit")
    made = {model.name: found for model in study.models if (found := _instructed(storage, study, model)) is not None}
    mixture = (storage.read_json(manifest_of(mixture_folder(study))) or {}) if made else {}
    doubt = mixture_doubt(storage, study)
    instructed, outdated = {}, {}
    for name, found in made.items():
        instructed[name] = found["weights"]
        if changed := _changed_source(found, weights.get(name), mixture.get("fingerprint")) or doubt:
            outdated[name] = changed
            instructed[name] += f" ({changed})"
    texts = TextDoubts(storage, study)
    return Sources(_known(examples), _known(weights), instructed, outdated, doubts(study), family_doubts(study), texts)


def mixture_doubt(storage: Storage, study: Study) -> str:
    """Says why the prepared instruction data may not be the study's; empty if they are trusted or not there.

    Earlier versions also read hidden files, which the identity does not cover. Manifests now list the hidden files left out.
    """
    spec = study.instructions
    if "instructed" not in study.paradigms or not isinstance(spec.folder, Path):
        return ""
    hidden = instruction_files(spec).hidden
    manifest = storage.read_json(manifest_of(mixture_folder(study))) if hidden else None
    if manifest is None or "hidden" in manifest:
        return ""
    return f"an earlier version may have read the hidden file{'s' * (len(hidden) > 1)} {', '.join(hidden)}"


def _known(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _value(storage: Storage, name: str, key: str) -> str | None:
    """Returns one value of a JSON file; None where there is no such file."""
    content = storage.read_json(name)
    if content is None:
        return None
    if not isinstance(content, Mapping) or key not in content:
        raise StudyError(f"{storage.path(name)}: lacks {key!r}; delete {PurePosixPath(name).parent} to make it anew")
    value: str = content[key]
    return value


def _instructed(storage: Storage, study: Study, model: ModelSpec) -> Mapping[str, Any] | None:
    if model.instructed_folder is not None or "instructed" not in study.paradigms:
        return None
    folder = instruct_folder(study, model)
    manifest = storage.read_json(manifest_of(folder))
    if manifest is not None and (not isinstance(manifest, Mapping) or "weights" not in manifest):
        raise StudyError(f"{storage.path(manifest_of(folder))}: lacks 'weights'; delete {folder} to make it anew")
    return manifest


def _changed_source(made: Mapping[str, Any], base_weights: str | None, mixture: str | None) -> str:
    """Says which source of instruction-tuned weights has changed since then; empty if none has."""
    for what, was, now in (
        ("base weights", made.get("base"), base_weights),
        ("instruction data", made.get("data"), mixture),
    ):
        if was is not None and now is not None and was != now:
            return f"made from {what} {was}; {now} are there now"
    return ""
