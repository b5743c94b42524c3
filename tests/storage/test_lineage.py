"""What results were made from: a record of other weights or data is stale, down the chain."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from builders import make_record

from xlmr_sweep.commands.preparation import models_to_instruct
from xlmr_sweep.storage.collect import collect, set_aside
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.study.identity import mixture_name, recipe_folder_name
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study


def test_a_record_made_from_other_weights_is_stale(study: Study, storage: Storage) -> None:
    trial = next(t for t in expand(study) if t.paradigm == "instructed")
    write_record(storage, make_record(trial, resolved={"weights": "old"}))
    folder = f"instruct/{recipe_folder_name(study, study.model('tiny'))}"
    storage.write_json(f"{folder}/manifest.json", {"weights": "old"})
    assert collect(storage, study).done == {trial.trial_id}
    storage.write_json(f"{folder}/manifest.json", {"weights": "new"})
    found = collect(storage, study)
    assert found.done == set()
    assert found.stale == {trial.trial_id: "weights old then, new now"}
    set_aside(storage, found)
    assert storage.exists(f"records/stale/{trial.trial_id}.json")
    assert collect(storage, study).num_stale == 0


def test_what_was_made_from_other_weights_or_data_is_stale_down_the_chain(study: Study, storage: Storage) -> None:
    trial = next(t for t in expand(study) if t.paradigm == "instructed")
    write_record(storage, make_record(trial, resolved={"weights": "tuned"}))
    model = study.model("tiny")
    folder = f"instruct/{recipe_folder_name(study, model)}"
    storage.write_json(f"{folder}/manifest.json", {"weights": "tuned", "base": None, "data": "rows"})
    storage.write_json(f"train/{recipe_folder_name(study, model)}/state.json", {})
    storage.write_json(f"data/{mixture_name(study)}/manifest.json", {"fingerprint": "rows"})
    assert collect(storage, study).done == {trial.trial_id}
    assert models_to_instruct(study, storage, [trial]) == []
    storage.write_json(f"data/{mixture_name(study)}/manifest.json", {"fingerprint": "others"})
    found = collect(storage, study)
    assert "instruction data rows; others are there now" in found.stale[trial.trial_id]
    assert "instruction data rows; others are there now" in found.outdated[folder]
    assert models_to_instruct(study, storage, [trial]) == ["tiny"]
    set_aside(storage, found)
    assert not storage.exists(f"{folder}/manifest.json")
    assert not storage.exists(f"train/{recipe_folder_name(study, model)}")


def test_a_hub_model_is_loaded_by_the_commit_it_first_was(
    study: Study, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.modeling import loading

    model = ModelSpec(name="m", hub="someone/encoder", revision="main")
    hub = study.replaced(models=[model])
    monkeypatch.setattr(loading, "load_config", lambda source: SimpleNamespace(_commit_hash="c0ffee"))
    assert loading.base_source(storage, hub, model).revision == "main"
    loading.keep_commit(storage, hub, model)
    monkeypatch.setattr(loading, "load_config", lambda source: SimpleNamespace(_commit_hash="decade"))
    loading.keep_commit(storage, hub, model)
    assert loading.base_source(storage, hub, model).revision == "c0ffee"
    trial = next(t for t in expand(hub) if t.paradigm == "prompted")
    write_record(storage, make_record(trial, resolved={"weights": "decade"}))
    assert collect(storage, hub).stale == {trial.trial_id: "weights decade then, c0ffee now"}
