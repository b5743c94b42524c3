"""Which records of earlier versions are not trusted, because models of their family are trained in another way now.

In: a study. Out: cells with the reason. Since then a record names its model's family (column `family`). A record without it is
trusted unless its cell is named here. If a model is not on this machine, its hub id tells its family: it contains `distilbert`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from xlmr_sweep.storage.doubts import Cell
from xlmr_sweep.storage.hub_cache import cached_model_file
from xlmr_sweep.study.model_files import CONFIG
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study

WITHOUT_HEAD_DROPOUT = ("albert", "distilbert")
"""Families whose setting of the classification head's dropout has another name, which earlier versions did not know."""

PADDED = ("eurobert", "gte")
"""Families that had no fast path in earlier versions: batches were padded, and the whole vocabulary was trained."""


def family_doubts(study: Study) -> Mapping[Cell, str]:
    """Returns the cells whose records without a family are not trusted, with the reason."""
    found: dict[Cell, str] = {}
    for model in study.models:
        kind = _model_type(model)
        for paradigm in study.paradigms:
            if reason := _reason(kind, paradigm, study.finetune.dropout):
                found |= {(model.name, paradigm, task.name): reason for task in study.tasks}
    return found


def _reason(kind: str, paradigm: str, dropout: float | None) -> str:
    if kind in WITHOUT_HEAD_DROPOUT and paradigm == "baseline" and dropout != 0:
        return f"an earlier version trained the classification head of {kind} without its dropout"
    if kind in PADDED:
        return f"an earlier version trained {kind} in padded batches, with other rounding and other draws of dropout"
    return ""


def _model_type(model: ModelSpec) -> str:
    """Returns a model's type by its `config.json`, in its folder or in this node's cache of the hub; else by its hub id."""
    if model.demo is not None:
        return ""
    try:
        config = json.loads(_config_file(model).read_text(encoding="utf-8"))
        return str(config.get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        words = re.split(r"[^a-z]+", (model.hub or "").lower())
        return next((kind for kind in (*WITHOUT_HEAD_DROPOUT, *PADDED) if kind in words), "")


def _config_file(model: ModelSpec) -> Path:
    """Returns where a model's configuration is.

    Raises:
        FileNotFoundError: if it is not on this machine.
    """
    if model.folder is not None:
        return model.folder / CONFIG
    found = cached_model_file(str(model.hub), CONFIG, model.revision)
    if found is None:
        raise FileNotFoundError(f"{model.hub}: {CONFIG} is not in the cache")
    return found
