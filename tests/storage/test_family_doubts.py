"""Records that name no family are trusted, unless models of their family were trained in another way then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_cache import cache_model

from xlmr_sweep.storage.collect import collect
from xlmr_sweep.storage.family_doubts import family_doubts
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

PARADIGMS = {"baseline", "prompted", "instructed"}


def study(folder: Path | None = None, hub: str | None = None, **finetune: Any) -> Study:
    model = {"name": "m", **({"hub": hub} if hub else {"folder": folder})}
    sizes: dict[str, Any] = {"sizes": [4], "seeds": [0], "tasks": ["cb"]}
    return Study.model_validate(
        {"name": "small", "models": [model], "data": {"source": "hub"}, "finetune": {"steps": 4, **finetune}, **sizes}
    )


def model_folder(path: Path, kind: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.mark.parametrize(
    ("kind", "doubtful"),
    [
        ("albert", {"baseline"}),
        ("distilbert", {"baseline"}),
        ("eurobert", PARADIGMS),
        ("gte", PARADIGMS),
        ("xlm-roberta", set()),
        ("electra", set()),
    ],
)
def test_only_older_records_of_families_that_are_trained_in_another_way_now_are_stale(
    kind: str, doubtful: set[str], tmp_path: Path
) -> None:
    asked, storage = study(model_folder(tmp_path / "model", kind)), Storage(tmp_path / "runs")
    trials = expand(asked)
    for columns, expected in (({}, doubtful), ({"family": kind}, set())):
        for trial in trials:
            write_record(storage, {**trial.as_dict(), "score": 0.5, "resolved": {}, **columns})
        found = collect(storage, asked, trials)
        assert {trial.paradigm for trial in trials if trial.trial_id in found.stale} == expected
        assert all(kind in reason and reason.startswith("an earlier version trained") for reason in found.stale.values())


def test_without_any_dropout_a_baseline_is_what_it_was(tmp_path: Path) -> None:
    assert family_doubts(study(model_folder(tmp_path / "model", "distilbert"), dropout=0.0)) == {}


@pytest.mark.parametrize(
    ("hub", "num_doubtful"),
    [
        ("distilbert/distilbert-base-multilingual-cased", 1),
        ("albert/albert-base-v2", 1),
        ("EuroBERT/EuroBERT-210m", 3),
        ("someone/gte-multilingual-mlm-base", 3),
        ("almanach/camembert-base", 0),
        ("FacebookAI/xlm-roberta-base", 0),
    ],
)
def test_a_hub_model_that_is_not_here_is_told_by_its_id(
    hub: str, num_doubtful: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_model(monkeypatch, tmp_path)
    assert len(family_doubts(study(hub=hub))) == num_doubtful


def test_a_hub_model_in_the_cache_is_told_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_model(monkeypatch, tmp_path / "cache", "someone/small-model", model_folder(tmp_path / "model", "distilbert"))
    assert set(family_doubts(study(hub="someone/small-model"))) == {("m", "baseline", "cb")}
