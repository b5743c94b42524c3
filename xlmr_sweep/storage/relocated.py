"""A storage whose study names folders that are not here, as after a copy to another machine. In: its records. Out: what it holds.

A trial's id contains hashes of the folders of models and data. If a folder is gone, nothing can be planned or run. What was run
can still be read: records are then matched by their declared settings, without the contents of folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.storage.artifacts import RESULTS_FILE, STUDY_FILE
from xlmr_sweep.storage.collect import Collected
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import AXES, CELL_COLUMNS, read_failure_files, read_records, result_columns
from xlmr_sweep.storage.study_file import read_study
from xlmr_sweep.study.plan import seen_of_task, sharing, sizes_and_seeds
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import TEMPLATE_VERSION
from xlmr_sweep.study.variant_spec import DECLARED

MODEL_KEYS = ("hub", "revision", "demo", "new_head")
"""A model's settings that decide its weights, apart from the contents of its folder."""


def collect_relocated(storage: Storage, study: Study | None = None) -> Collected:
    """Reads a storage whose trial ids cannot be computed. Changes nothing.

    A cell may have several records with the study's settings. The one in results.parquet counts, else the newest. A failure does
    not say its settings, so the newest of a cell counts. No record is checked for being stale. Planned cells have no `trial_id`.

    Args:
        storage: a folder with a study.json.
        study: the study to compare with; by default that of study.json.

    Raises:
        StudyError: if study.json is absent or damaged.
    """
    study = study or read_study(storage)
    if study is None:
        raise StudyError(f"{storage}: holds no {STUDY_FILE}, so it is not the storage of a study")
    found = Collected(study, _planned(study))
    cells = {_cell(plan): plan for plan in found.planned}
    listed = _listed(storage)
    records = read_records(storage, found.corrupt)
    chosen: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in sorted(records.values(), key=lambda r: (r["trial_id"] in listed, r.get("finished_at") or "", r["trial_id"])):
        if _cell(record) in cells and _as_declared(record, study):
            chosen[_cell(record)] = record
    columns = result_columns(study)
    axes = {cell: {name: plan[name] for name in AXES if name in plan} for cell, plan in cells.items()}
    found.rows = [
        {name: chosen[cell][name] for name in columns if name in chosen[cell]} | axes[cell] for cell in cells if cell in chosen
    ]
    found.num_other_settings = len(records) - len(chosen)
    failures = {_cell(failure): failure for failure in sorted(read_failure_files(storage), key=lambda f: f.get("time") or "")}
    found.failures = [failures[cell] for cell in cells if cell in failures and cell not in chosen]
    return found


def folder_of(storage: Storage, parent: str, name: str, exact: Callable[[], str]) -> str:
    """Returns the folder `<parent>/<name>-<hash>`, also where the hash cannot be computed here.

    Args:
        storage: the study's folder.
        parent: the folder that it lies in, of `xlmr_sweep.storage.artifacts`.
        name: the folder's name before the hash.
        exact: returns the folder. It fails if something that is hashed is missing. Then the only folder of that name is returned,
            or one that does not exist if there are several.
    """
    try:
        return exact()
    except MissingFolderError:
        alike = [folder for folder in storage.folders(parent) if re.fullmatch(f"{re.escape(name)}-[0-9a-f]+", folder)]
        return f"{parent}/{alike[0]}" if len(alike) == 1 else f"{parent}/{name}"


def _planned(study: Study) -> list[dict[str, Any]]:
    return [
        dict(zip(CELL_COLUMNS, (model.name, paradigm, task.name, size, seed), strict=True))
        | {name: value for name, value in (("variant", variant), ("prompt", prompt)) if value}
        for variant in study.variant_names
        for model in study.models
        for paradigm in study.paradigms
        for task in study.tasks
        if not study.variants or sharing(study, variant, paradigm, task.name) == variant
        for prompt in (study.prompt_names(task.name) if paradigm != "baseline" else ("",))
        for size, seed in sizes_and_seeds(study, paradigm)
    ]


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Records of a time when the study had no variants are of the study as declared.
    return (*(row.get(name) for name in CELL_COLUMNS), row.get("variant") or DECLARED, row.get("prompt") or "")


def _listed(storage: Storage) -> set[str]:
    """Returns the ids of the trials in results.parquet: those of the last run's settings."""
    try:
        table = parquet.ParquetFile(pa.BufferReader(storage.read(RESULTS_FILE))).read(columns=["trial_id"])
    except (OSError, KeyError, pa.ArrowException):
        return set()
    return set(table.column("trial_id").to_pylist())


def _as_declared(record: Mapping[str, Any], study: Study) -> bool:
    """Tells whether a record was made with the study's settings, as far as it says them."""
    study = study.at(record.get("variant") or DECLARED, record.get("prompt") or "")
    model = study.model(record["model"]).model_dump(mode="json")
    is_zero_shot = record["train_size"] == 0
    declared = {
        "model_spec": {key: model[key] for key in MODEL_KEYS},
        "data": study.data.model_dump(mode="json", exclude={"folder"}),
        "finetune": study.finetune.identity(is_zero_shot=is_zero_shot),
    }
    if is_zero_shot:
        declared["zero_shot"] = study.zero_shot.model_dump(mode="json")
    declared["task_spec"] = seen_of_task(study.task(record["task"]), record["paradigm"])
    if record["paradigm"] == "instructed" and model["instructed_folder"] is None:
        declared["instruct"] = study.instruct.model_dump(mode="json", exclude={"checkpoint_every"})
        declared["instructions"] = study.instructions.model_dump(mode="json", exclude={"folder", "max_malformed"})
    spec = record.get("spec") or {}
    if record["paradigm"] != "baseline" and spec.get("template_version", TEMPLATE_VERSION) != TEMPLATE_VERSION:
        return False
    return all(
        spec[part].get(key, value) == value
        for part, settings in declared.items()
        if isinstance(spec.get(part), Mapping)
        for key, value in settings.items()
    )
