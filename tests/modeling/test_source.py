"""Where weights come from: the hub at a kept commit, a folder, or a copy of what the storage holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xlmr_sweep.modeling.source import ModelSource, base_source, cache_folder, damaged, instructed_source
from xlmr_sweep.storage.artifacts import commit_file, instruct_folder, manifest_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study


@pytest.mark.parametrize(("kept", "revision"), [({"commit": "abc123"}, "abc123"), (None, "main")])
def test_a_hub_model_is_read_at_the_commit_that_the_storage_keeps(
    study_file: Callable[..., Path], tmp_path: Path, kept: dict[str, str] | None, revision: str
) -> None:
    study = load_study(str(study_file(models=[{"name": "m", "hub": "some/model", "revision": "main", "new_head": True}])))
    storage, model = Storage(tmp_path / "runs"), study.models[0]
    if kept is not None:
        storage.write_json(commit_file(model), kept)
    assert base_source(storage, study, model) == ModelSource("m", "some/model", revision, new_head=True)


def test_a_folder_is_read_where_it_is(study_file: Callable[..., Path], encoder_folder: Path, tmp_path: Path) -> None:
    models = [{"name": "m", "folder": str(encoder_folder), "instructed_folder": str(encoder_folder)}]
    study, storage = load_study(str(study_file(models=models))), Storage(tmp_path / "runs")
    assert base_source(storage, study, study.models[0]) == ModelSource("m", str(encoder_folder))
    assert instructed_source(storage, study, study.models[0]) == ModelSource("m", str(encoder_folder))


def test_weights_that_were_made_again_are_copied_again(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file()))
    # fsspec's name for the local disk: nothing is mapped from there, so weights are copied.
    storage, model = Storage(f"local://{tmp_path}/runs"), study.models[0]
    found = []
    for weights in ("first", "second"):
        folder = instruct_folder(study, model)
        storage.write(f"{folder}/model.safetensors", weights.encode())
        storage.write_json(manifest_of(folder), {"weights": weights})
        found.append(Path(instructed_source(storage, study, model).location))
        assert (found[-1] / "model.safetensors").read_bytes() == weights.encode()
    assert found[0] != found[1]
    assert all(cache_folder(storage) in folder.parents for folder in found)


def test_a_damaged_file_is_named_in_one_line() -> None:
    said = str(damaged(ModelSource("m", "x"), Path("x/model.safetensors"), ValueError("bad\nheader")))
    assert said == "model m: x/model.safetensors is damaged: bad header; copy the weights again"
