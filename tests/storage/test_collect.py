"""A storage against its plan: what is done, failed, corrupt, or of other settings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from builders import make_record

from xlmr_sweep.storage.artifacts import instruct_folder
from xlmr_sweep.storage.collect import collect, set_aside, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import cell_of, write_record
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

SO = {"cb": ["yes", "no", "so"], "copa": ["same", "so"]}
"""Other label words, by task."""


def test_results_have_one_row_a_completed_cell_in_the_plans_order(study: Study, storage: Storage, tmp_path: Path) -> None:
    trials = expand(study)
    for trial in reversed(trials[:3]):
        write_record(storage, make_record(trial, score=trial.train_size / 8, versions=None))
    write_results(storage, collect(storage, study))
    (tmp_path / "copy.parquet").write_bytes(storage.read("results.parquet"))
    table = pd.read_parquet(tmp_path / "copy.parquet")
    assert table["trial_id"].tolist() == [trial.trial_id for trial in trials[:3]]
    assert table["score"].tolist() == [trial.train_size / 8 for trial in trials[:3]]
    assert table["model"].tolist() == ["tiny"] * 3


def test_records_of_other_settings_are_kept_and_counted(study: Study, storage: Storage) -> None:
    for trial in expand(study)[:4]:
        write_record(storage, make_record(trial))
    other = study.replaced(finetune=study.finetune.model_copy(update={"steps": 9}))
    found = collect(storage, other)
    assert (len(found.rows), found.num_other_settings) == (0, 4)
    assert len(storage.names("records", ".json")) == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"trial_id": "other"}', b'{"score": 0.5}'])
def test_a_corrupt_record_is_named_set_aside_and_missing(study: Study, storage: Storage, content: bytes) -> None:
    first, second = expand(study)[:2]
    write_record(storage, make_record(first))
    storage.write(f"records/{second.trial_id}.json", content)
    found = collect(storage, study)
    assert found.done == {first.trial_id}
    assert list(found.corrupt) == [f"{second.trial_id}.json"]
    set_aside(storage, found)
    assert storage.read(f"records/corrupt/{second.trial_id}.json") == content
    assert collect(storage, study).corrupt == {}


def test_results_of_a_study_with_variants_have_the_column_and_those_of_another_do_not(
    study: Study, storage: Storage, tmp_path: Path
) -> None:
    varied = study.replaced(variants=[{"name": "targets-only", "instruct": {"mask_rate": 0}}])
    trials = expand(varied)
    # Made before the study had variants.
    for trial in (expand(study)[0], trials[-1]):
        write_record(storage, make_record(trial))
    tables = []
    for asked in (study, varied):
        write_results(storage, collect(storage, asked))
        (tmp_path / "copy.parquet").write_bytes(storage.read("results.parquet"))
        tables.append(pd.read_parquet(tmp_path / "copy.parquet"))
    plain, with_variants = tables
    assert set(with_variants.columns) - set(plain.columns) == {"variant"}
    assert len(plain) == 1
    found = with_variants[["trial_id", "variant"]].to_dict("records")
    assert found == [
        {"trial_id": trials[0].trial_id, "variant": "declared"},
        {"trial_id": trials[-1].trial_id, "variant": "targets-only"},
    ]


def test_results_of_a_study_with_prompts_have_the_column(study: Study, storage: Storage, tmp_path: Path) -> None:
    asked = study.replaced(prompts={"cb": [{"name": "own"}, {"name": "so", "prompt": "{premise} so {hypothesis}?"}]})
    trials = [trial for trial in expand(asked) if trial.task == "cb" and trial.train_size == 4 and trial.seed == 0]
    for trial in trials:
        write_record(storage, make_record(trial))
    write_results(storage, collect(storage, asked))
    (tmp_path / "copy.parquet").write_bytes(storage.read("results.parquet"))
    table = pd.read_parquet(tmp_path / "copy.parquet")
    found = [(row["paradigm"], row["prompt"]) for row in table.astype(object).where(table.notna(), None).to_dict("records")]
    assert found == [("baseline", None), ("prompted", "own"), ("prompted", "so"), ("instructed", "own"), ("instructed", "so")]
    assert "variant" not in table.columns


def test_weights_of_a_variant_that_are_outdated_make_its_trials_stale_and_no_others(study: Study, storage: Storage) -> None:
    varied = study.replaced(variants=[{"name": "targets-only", "instruct": {"mask_rate": 0}}])
    trials = [trial for trial in expand(varied) if trial.paradigm == "instructed"]
    for trial in trials:
        write_record(storage, make_record(trial, resolved={"weights": "old"}))
    part = varied.at("targets-only")
    storage.write_json(f"{instruct_folder(part, part.models[0])}/manifest.json", {"weights": "new"})
    found = collect(storage, varied)
    assert set(found.stale) == {trial.trial_id for trial in trials if trial.variant == "targets-only"}
    assert len(found.stale) * 2 == len(trials)


def test_a_record_takes_the_names_that_the_study_has_now(study: Study, storage: Storage) -> None:
    prompts = {task: [{"name": "own"}, {"name": "so", "label_words": words}] for task, words in SO.items()}
    for trial in expand(study.replaced(prompts=prompts)):
        write_record(storage, make_record(trial))
    # CB has only its own prompt again, which needs no name.
    now = study.replaced(prompts={"copa": prompts["copa"]})
    found = collect(storage, now)
    assert [cell_of(row) for row in found.rows] == [cell_of(cell) for cell in found.planned]
    assert {row.get("prompt") for row in found.rows if row["task"] == "cb"} == {None}
