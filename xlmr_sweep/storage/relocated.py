"""A storage whose study names folders that are not here, as after a copy to another machine. In: its records. Out: what it holds.

A trial's id contains hashes of the folders of models and data. If a folder is gone, nothing can be planned or run. What was run
can still be read: records are then matched by their declared settings, without the contents of folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.storage.artifacts import INSTRUCT, RESULTS_FILE, STUDY_FILE, instruct_folder, manifest_of
from xlmr_sweep.storage.collect import Collected
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import CELL_COLUMNS, read_failure_files, read_records, result_columns, row_of
from xlmr_sweep.storage.study_file import read_study
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import sizes_and_seeds
from xlmr_sweep.study.seen_settings import Seen, is_recipe_of, parts_of_record, parts_of_study, seen_settings, sharing
from xlmr_sweep.study.spec import Paradigm, Study
from xlmr_sweep.study.template import TEMPLATE_VERSION
from xlmr_sweep.study.variant_spec import DECLARED


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
    listed, cell_for = _listed(storage), _CellFinder(study, found.planned)
    records = read_records(storage, found.corrupt)
    chosen: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in sorted(records.values(), key=lambda r: (r["trial_id"] in listed, r.get("finished_at") or "", r["trial_id"])):
        if (cell := cell_for(record)) is not None:
            chosen[cell] = record
    columns = result_columns(study)
    found.rows = [row_of(chosen[cell], columns, plan) for cell, plan in cells.items() if cell in chosen]
    found.num_other_settings = len(records) - len(chosen)
    failures = {_cell(failure): failure for failure in sorted(read_failure_files(storage), key=lambda f: f.get("time") or "")}
    found.failures = [failures[cell] for cell in cells if cell in failures and cell not in chosen]
    return found


def tuned_folder(storage: Storage, study: Study, model: ModelSpec) -> str:
    """Returns the folder of a model's instruction-tuned weights, also where the hash of its recipe cannot be computed here.

    Then it is the only one whose manifest has the study's settings, or one that does not exist.
    """

    def has_settings(folder: str) -> bool:
        manifest = storage.read_json(manifest_of(folder))
        recipe = manifest.get("recipe") if isinstance(manifest, Mapping) else None
        return not isinstance(recipe, Mapping) or is_recipe_of(recipe, study, model)

    return folder_of(storage, INSTRUCT, model.name, partial(instruct_folder, study, model), has_settings)


def folder_of(
    storage: Storage, parent: str, name: str, exact: Callable[[], str], is_meant: Callable[[str], bool] = lambda folder: True
) -> str:
    """Returns the folder `<parent>/<name>-<hash>`, also where the hash cannot be computed here.

    Args:
        storage: the study's folder.
        parent: the folder that it lies in, of `xlmr_sweep.storage.artifacts`.
        name: the folder's name before the hash.
        exact: returns the folder. It fails if something that is hashed is missing. Then the only folder of that name is returned,
            or one that does not exist if there are several.
        is_meant: tells of a folder of that name whether it may be the one.
    """
    try:
        return exact()
    except MissingFolderError:
        names = (folder for folder in storage.folders(parent) if re.fullmatch(f"{re.escape(name)}-[0-9a-f]+", folder))
        alike = [folder for folder in (f"{parent}/{name}" for name in names) if is_meant(folder)]
        return alike[0] if len(alike) == 1 else f"{parent}/{name}"


def _planned(study: Study) -> list[dict[str, Any]]:
    return [
        dict(zip(CELL_COLUMNS, (model.name, paradigm, task.name, size, seed), strict=True))
        | {name: value for name, value in (("variant", variant), ("prompt", prompt)) if value}
        for variant in study.variant_names
        for model in study.models
        for paradigm in study.paradigms
        for task in study.tasks
        if not study.variants or sharing(study, variant, model.name, paradigm, task.name) == variant
        for prompt in (study.prompt_names(task.name) if paradigm != "baseline" else ("",))
        for size, seed in sizes_and_seeds(study, paradigm)
    ]


def _cell(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Records of a time when the study had no variants are of the study as declared.
    return (*(row.get(name) for name in CELL_COLUMNS), row.get("variant") or DECLARED, row.get("prompt") or "")


def _listed(storage: Storage) -> set[str]:
    """Returns the ids of the trials in results.parquet: those of the last run's settings."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pa.BufferReader(storage.read(RESULTS_FILE))).read(columns=["trial_id"])
    except (OSError, KeyError, pa.ArrowException):
        return set()
    return set(table.column("trial_id").to_pylist())


class _CellFinder:
    """Finds the cell of a study that a record is of, by its settings: the study may have renamed its variants and prompts.

    Args:
        study: the study.
        planned: its cells.
    """

    def __init__(self, study: Study, planned: Iterable[Mapping[str, Any]]) -> None:
        self._study = study
        self._cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for plan in planned:
            self._cells.setdefault(_cell(plan)[: len(CELL_COLUMNS)], []).append(plan)
        self._settings = cache(self._settings_of)

    def __call__(self, record: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Returns the cell; None if the record was made with other settings, as far as it says them."""
        plans = self._cells.get(_cell(record)[: len(CELL_COLUMNS)], [])
        spec = record.get("spec") or {}
        parts = parts_of_record(spec)
        if not plans or parts is None or not _is_of_template(record["paradigm"], spec):
            return None
        is_zero_shot = record["train_size"] == 0
        seen = seen_settings(parts, record["paradigm"], self._study.models[0].name, is_zero_shot=is_zero_shot)
        fitting = [_cell(plan) for plan in plans if self._fits(seen, plan, is_zero_shot)]
        own = _cell(record)
        if own in fitting:
            return own
        # A record that does not say its prompt is only of the cell that it names.
        return fitting[0] if fitting and "task_spec" in seen else None

    def _fits(self, seen: Seen, plan: Mapping[str, Any], is_zero_shot: bool) -> bool:
        names = (plan.get("variant", ""), plan.get("prompt", ""), plan["model"], plan["paradigm"], plan["task"])
        settings = self._settings(*names, is_zero_shot)
        return all(seen[name] == settings.get(name) for name in seen)

    def _settings_of(self, variant: str, prompt: str, model: str, paradigm: Paradigm, task: str, is_zero_shot: bool) -> Seen:
        parts = parts_of_study(self._study.at(variant, prompt), model, task)
        return seen_settings(parts, paradigm, self._study.models[0].name, is_zero_shot=is_zero_shot)


def _is_of_template(paradigm: str, spec: Mapping[str, Any]) -> bool:
    return paradigm == "baseline" or spec.get("template_version", TEMPLATE_VERSION) == TEMPLATE_VERSION
