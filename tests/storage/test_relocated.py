"""A storage read by declared settings, without trial ids, finds the same cells as one read by ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder, make_record

from xlmr_sweep.storage.artifacts import instruct_folder, manifest_of
from xlmr_sweep.storage.collect import collect
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import cell_of, spec_of, write_record
from xlmr_sweep.storage.relocated import collect_relocated, tuned_folder
from xlmr_sweep.study.identity import recipe_identity
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study

ROWS = {"source": "folder", "folder": "instructions.jsonl"}
TUNING = {"max_steps": 3, "global_batch_size": 16, "max_length": 64, "precision": "fp32"}
TRAINING = {"steps": 5, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32"}
PROMPTS = {"cb": [{"name": "own"}, {"name": "so", "label_words": ["yes", "no", "so"]}]}
TARGETS = {"name": "targets", "instruct": {"mask_rate": 0}}
WORDS = {"name": "words", "instruct": {"mask_rate": 0}, "template": {"label_words": {"cb": ["same", "no", "maybe"]}}}

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "settings that change no score": ({}, {"instruct": {**TUNING, "stop_at_spike": False, "checkpoints_kept": 3}}),
    "the share of malformed rows": ({}, {"instructions": {**ROWS, "max_malformed": 0.1}}),
    "the counting model by its name": ({}, {"instructions": {**ROWS, "tokenizer": "tiny"}}),
    "texts without content that nothing uses": ({}, {"zero_shot": {"content_free": ["x"]}}),
    "calibration": ({}, {"zero_shot": {"calibrate": True}}),
    "held-out rows": ({}, {"instruct": {**TUNING, "held_out": 5}}),
    "longer targets": ({}, {"instructions": {**ROWS, "max_target_tokens": 2}}),
    "training": ({}, {"finetune": TRAINING}),
    "prompts that come later": ({}, {"prompts": PROMPTS}),
    "prompts that go": ({"prompts": PROMPTS}, {}),
    "variants that come later": ({}, {"variants": [TARGETS, WORDS]}),
    "variants in another order": ({"variants": [TARGETS, WORDS]}, {"variants": [WORDS, TARGETS]}),
    "a variant of another name": ({"variants": [TARGETS]}, {"variants": [{**TARGETS, "name": "no-inputs"}]}),
    "a name for another variant": ({"variants": [TARGETS]}, {"variants": [{"name": "targets", "instruct": {"mask_rate": 0.5}}]}),
}


@pytest.fixture
def declare(study_file: Callable[..., Path]) -> Callable[..., Study]:
    return lambda **changes: load_study(str(study_file(sizes=[0, 4], seeds=[0, 1], **changes)))


def fill(storage: Storage, study: Study) -> None:
    for place, trial in enumerate(expand(study)):
        write_record(storage, make_record(trial, score=place / 100, spec=spec_of(study, trial)))


@pytest.mark.parametrize("change", CHANGES)
def test_records_are_found_by_settings_as_by_ids(change: str, declare: Callable[..., Study], tmp_path: Path) -> None:
    before, after = (declare(**changes) for changes in CHANGES[change])
    storage = Storage(tmp_path / "runs")
    fill(storage, before)
    by_id, by_settings = collect(storage, after), collect_relocated(storage, after)
    assert [cell_of(cell) for cell in by_settings.planned] == [cell_of(cell) for cell in by_id.planned]
    scores = [{cell_of(row): row["score"] for row in found.rows} for found in (by_id, by_settings)]
    assert scores[0] == scores[1]
    assert 0 < len(scores[0]) <= len(by_id.planned)
    assert by_settings.num_other_settings == by_id.num_other_settings


def test_weights_tuned_elsewhere_are_of_every_variant(
    declare: Callable[..., Study], encoder_folder: Path, tmp_path: Path
) -> None:
    tuned = make_encoder(tmp_path / "tuned", seed=1)
    model = {"name": "given", "folder": str(encoder_folder), "instructed_folder": str(tuned)}
    study = declare(models=[model], variants=[TARGETS])
    by_id, by_settings = expand(study), collect_relocated(Storage(tmp_path / "runs"), study)
    assert {cell["variant"] for cell in by_settings.planned} == {trial.variant for trial in by_id} == {"declared"}
    assert len(by_settings.planned) == len(by_id)


def test_a_record_of_an_earlier_version_lacks_settings_that_were_off(declare: Callable[..., Study], tmp_path: Path) -> None:
    study, storage = declare(), Storage(tmp_path / "runs")
    for trial in expand(study):
        spec = spec_of(study, trial)
        del spec["instruct"]["held_out"], spec["instructions"]["drop_duplicates"]
        write_record(storage, make_record(trial, spec=spec))
    assert len(collect_relocated(storage, study).rows) == len(expand(study))
    apart = collect_relocated(storage, declare(instructions={**ROWS, "drop_duplicates": True}))
    assert {row["paradigm"] for row in apart.rows} == {"baseline", "prompted"}


def test_weights_of_another_recipe_are_never_taken_for_the_studys(
    declare: Callable[..., Study], encoder_folder: Path, tmp_path: Path
) -> None:
    study, other = declare(), declare(instruct={**TUNING, "mask_rate": 0.5})
    storage = Storage(tmp_path / "runs")
    folders = []
    for one in (study, other):
        (model,) = one.models
        folders.append(instruct_folder(one, model))
        storage.write_json(manifest_of(folders[-1]), {"weights": "w", "recipe": recipe_identity(one, model)})
    encoder_folder.rename(tmp_path / "gone")
    assert tuned_folder(storage, study, study.models[0]) == folders[0]
    storage.delete(folders[0])
    assert tuned_folder(storage, study, study.models[0]) == "instruct/tiny"
    assert tuned_folder(storage, other, other.models[0]) == folders[1]
