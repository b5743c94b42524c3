"""The declared settings that a trial sees: those of its id, without the contents of folders. Pure: reads no file.

In: parts of a study, as it declares them or as a record keeps them. Out: plain values, equal where ids differ at most by what
lies in folders. Settings that change no score are left out, and those of a later version have their default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from xlmr_sweep.study.canonical import Declared
from xlmr_sweep.study.data_spec import DataSpec, InstructionSpec
from xlmr_sweep.study.identity import unused_settings
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import seen_of_task
from xlmr_sweep.study.recipes import INSTRUCT_RUNTIME, FinetuneSpec, InstructSpec, ZeroShotSpec
from xlmr_sweep.study.spec import Paradigm, Study
from xlmr_sweep.study.tasks import TaskSpec
from xlmr_sweep.study.template import TEMPLATE_VERSION

Parts = Mapping[str, Any]
"""Parts of a study by the names that a record gives them."""

Seen = dict[str, Any]
"""What is seen of each part, by the same names."""

KINDS: Mapping[str, type[Declared]] = {
    "model_spec": ModelSpec,
    "task_spec": TaskSpec,
    "data": DataSpec,
    "finetune": FinetuneSpec,
    "zero_shot": ZeroShotSpec,
    "instruct": InstructSpec,
    "instructions": InstructionSpec,
}

ROW_SETTINGS = ("max_target_tokens", "exclude", "max_rows", "drop_duplicates")
"""Settings of the instruction data that do not say where they come from."""


def parts_of_study(study: Study, model: str, task: str) -> Parts:
    """Returns the parts that trials of a model and a task have of a study, which is as one variant and prompt have it."""
    whole = {name: getattr(study, name) for name in KINDS if name in type(study).model_fields}
    return {**whole, "model_spec": study.model(model), "task_spec": study.task(task)}


def parts_of_record(spec: Mapping[str, Any]) -> Parts | None:
    """Returns the parts that a record's `spec` tells; None if one of them is no such declaration."""
    told = {name: spec[name] for name in KINDS if isinstance(spec.get(name), Mapping)}
    try:
        return {
            name: KINDS[name].model_validate({key: value for key, value in raw.items() if key in KINDS[name].model_fields})
            for name, raw in told.items()
        }
    except ValidationError:
        return None


def seen_settings(parts: Parts, paradigm: Paradigm, counted_by: str, *, is_zero_shot: bool) -> Seen:
    """Returns what trials of a paradigm see of those parts that are given.

    Args:
        parts: of a study or of a record.
        paradigm: of the trials.
        counted_by: the model whose tokenizer counts target tokens where `instructions.tokenizer` names none.
        is_zero_shot: whether their training size is 0.
    """
    model, data, rows = parts.get("model_spec"), parts.get("data"), parts.get("instructions")
    is_tuned = paradigm == "instructed" and not (model is not None and model.instructed_folder is not None)
    seen: Seen = {}
    if model is not None:
        revision = model.revision if model.hub is not None else None
        seen["model_spec"] = [model.hub, revision, model.demo, model.new_head, is_tuned]
    if "task_spec" in parts:
        seen["task_spec"] = seen_of_task(parts["task_spec"], paradigm)
    if data is not None:
        is_demo = data.source == "demo" or (model is not None and model.demo is not None)
        is_demo = is_demo or (is_tuned and rows is not None and rows.source == "demo")
        of_hub = [data.hub, data.revision] if data.source == "hub" else []
        seen["data"] = [data.source, *of_hub, data.seed if is_demo else None]
    if "finetune" in parts:
        seen["finetune"] = parts["finetune"].identity(is_zero_shot=is_zero_shot)
    if is_zero_shot and "zero_shot" in parts:
        seen["zero_shot"] = list(parts["zero_shot"].content_free) if parts["zero_shot"].calibrate else None
    if is_tuned and "instruct" in parts:
        seen["instruct"] = _of_recipe(parts["instruct"])
    if is_tuned and rows is not None:
        seen["instructions"] = _of_instructions(rows, counted_by)
    return seen


def _of_instructions(rows: InstructionSpec, counted_by: str) -> list[Any]:
    of_hub = [rows.hub, rows.revision, rows.files] if rows.source == "hub" else []
    # A bucket's files are no part of an id, but its address is.
    of_bucket = [rows.folder] if isinstance(rows.folder, str) else []
    kept = [rows.max_target_tokens, rows.tokenizer or counted_by, sorted(rows.exclude), rows.max_rows, rows.drop_duplicates]
    return [rows.source, *of_hub, *of_bucket, *kept]


def is_recipe_of(recipe: Mapping[str, Any], study: Study, model: ModelSpec) -> bool:
    """Tells whether a recipe, as a manifest of weights keeps it, has the settings of a study, whatever is in folders."""
    try:
        declared = InstructSpec.model_validate(recipe["instruct"])
        rows = InstructionSpec(**{key: value for key, value in recipe["mixture"].items() if key in ROW_SETTINGS})
        base = recipe["model"]
    except (KeyError, TypeError, AttributeError, ValidationError):
        return False
    mine = study.instructions
    of_rows = [[getattr(some, key) for key in ROW_SETTINGS if key != "exclude"] for some in (rows, mine)]
    of_hub = [recipe["mixture"].get(key) for key in ("hub", "revision", "files")]
    return (
        _of_recipe(declared) == _of_recipe(study.instruct)
        and of_rows[0] == of_rows[1]
        and sorted(rows.exclude) == sorted(mine.exclude)
        and of_hub == ([mine.hub, mine.revision, mine.files] if mine.source == "hub" else [None] * 3)
        and [base.get("hub"), base.get("demo"), base.get("new_head", False)] == [model.hub, model.demo, model.new_head]
        and recipe.get("template") == TEMPLATE_VERSION
    )


def _of_recipe(recipe: InstructSpec) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude=INSTRUCT_RUNTIME | unused_settings(recipe))


def sharing(study: Study, variant: str, model: str, paradigm: Paradigm, task: str) -> str:
    """Returns the first variant that has the same trials of a model, paradigm and task as `variant`."""

    def seen(name: str) -> Any:
        part = study.at(name)
        settings = seen_settings(parts_of_study(part, model, task), paradigm, study.models[0].name, is_zero_shot=False)
        return settings, str(part.instructions.folder) if "instructions" in settings else ""

    mine = seen(variant)
    return next(name for name in study.variant_names if seen(name) == mine)
