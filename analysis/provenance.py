"""Where results come from. In: results and manifests. Out: rows of text that a reader needs to trust or repeat the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis import paper
from analysis.artifacts import Artifacts
from analysis.options import Options
from analysis.schema import PARADIGMS
from analysis.tables import Results
from xlmr_sweep.modeling.architecture import KNOWN

if TYPE_CHECKING:
    from xlmr_sweep.study.spec import Study

PAPER_SIZES = (2, 4, 8, 16, 32, 64, 128)
PAPER_NUM_SEEDS = 3
# Settings that the paper states (sections 3.1 and 4.3), by the study's field.
PAPER_SETTINGS = {
    ("instruct", "learning_rate"): 2e-5,
    ("instruct", "weight_decay"): 0.01,
    ("instruct", "global_batch_size"): 128,
    ("instruct", "epochs"): 1.0,
    ("instruct", "mask_rate"): 0.15,
    ("instruct", "max_steps"): None,
    ("instructions", "max_target_tokens"): 3,
    ("finetune", "learning_rate"): 1e-5,
}
# Columns whose values are listed, with their headings.
ROW_FACTS = {
    "git_commit": "commit", "device": "device", "precision": "precision", "host": "hosts", "num_gpus": "GPUs of a trial",
    "num_ranks": "ranks of a trial", "started_at": "first and last start",
}  # fmt: skip


def provenance(results: Results, found: Artifacts, options: Options) -> pd.DataFrame:
    """Returns `what` and `value`: source, plan, software, hardware, fingerprints of data and weights, and rule of integration."""
    rows = results.rows
    facts: list[tuple[str, str]] = [("read from", results.source), ("study", results.name)]
    zero_shot = ", zero-shot counted" if options.zero_shot else ""
    facts.append(("integration", f"{options.rule}, {options.x_scale} training size{zero_shot}"))
    facts.append(("trials", f"{len(rows)} with a result of {len(results.planned)} planned"))
    facts.append(("records of other settings", str(results.num_other_settings)))
    facts.append(("stale records", str(results.num_stale)))
    facts.append(("corrupt records", str(len(results.corrupt))))
    for column, heading in ROW_FACTS.items():
        if column in rows.columns and rows[column].notna().any():
            values = sorted(rows[column].dropna().astype(str).unique())
            facts.append((heading, f"{values[0]} to {values[-1]}" if column == "started_at" else _some(values)))
    for column in sorted(name for name in rows.columns if str(name).startswith("version_")):
        facts.append((f"version of {column.removeprefix('version_')}", _some(sorted(rows[column].dropna().astype(str).unique()))))
    if found.mixture:
        facts.append(("instruction data", f"{found.mixture.get('name', '')} {found.mixture.get('fingerprint', '')}".strip()))
    facts += [(f"data of {task}", str(manifest.get("fingerprint", ""))) for task, manifest in found.task_data.items()]
    facts += [(f"weights of {model}", str(manifest.get("weights", ""))) for model, manifest in found.pretrained.items()]
    facts += [
        (f"instruction-tuned weights of {model}", str(manifest.get("weights") or manifest.get("fingerprint") or ""))
        for model, manifest in found.instructed.items()
    ]
    return pd.DataFrame(facts, columns=["what", "value"])


def deviations(study: Study | None) -> list[str]:
    """Returns how a study differs from the paper's, one sentence for each difference. A bare table gives none."""
    if study is None:
        return []
    found = []
    hubs = [model.hub or model.demo or str(model.folder) for model in study.models]
    if hubs != list(KNOWN):
        found.append(f"Models: {', '.join(hubs)}; the paper has {', '.join(KNOWN)}.")
    for what, ours, theirs in (
        ("Tasks", [task.name for task in study.tasks], list(paper.TASKS)),
        ("Paradigms", list(study.paradigms), list(PARADIGMS)),
        ("Training sizes", list(study.sizes), list(PAPER_SIZES)),
    ):
        if sorted(map(str, ours)) != sorted(map(str, theirs)):
            found.append(f"{what}: {', '.join(map(str, ours))}; the paper has {', '.join(map(str, theirs))}.")
    if len(study.seeds) != PAPER_NUM_SEEDS:
        found.append(f"Seeds: {len(study.seeds)}; the paper has {PAPER_NUM_SEEDS}.")
    if study.data.source != "hub":
        found.append(f"Task data: {study.data.source}; the paper has SuperGLUE.")
    if study.instructions.source != "hub":
        found.append(f"Instruction data: {study.instructions.source}; the paper has English xP3.")
    for (part, name), stated in PAPER_SETTINGS.items():
        declared = getattr(getattr(study, part), name)
        if declared != stated:
            found.append(f"{part}.{name}: {declared}; the paper has {'no such limit' if stated is None else stated}.")
    if study.finetune.steps <= 300:
        found.append(f"finetune.steps: {study.finetune.steps}; the paper has more than 300.")
    if study.instructions.exclude:
        found.append(f"Left out of the instruction data: {', '.join(study.instructions.exclude)}.")
    return found


def settings(study: Study | None) -> pd.DataFrame:
    """Returns every declared setting of a study as `setting` and `value`. Dots join nested names."""
    rows: list[tuple[str, str]] = []
    if study is not None:
        _flatten("", study.model_dump(mode="json", exclude={"models", "tasks"}), rows)
        rows += [(f"models.{model.name}", _short(model.model_dump(mode="json"))) for model in study.models]
        rows += [(f"tasks.{task.name}", _short(task.model_dump(mode="json"))) for task in study.tasks]
    return pd.DataFrame(rows, columns=["setting", "value"])


def _flatten(prefix: str, value: Any, rows: list[tuple[str, str]]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}" if prefix else name, item, rows)
    else:
        rows.append((prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))


def _short(value: dict[str, Any]) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None and item is not False and key != "name")


def _some(values: list[str], most: int = 6) -> str:
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(values[:most]) + more
