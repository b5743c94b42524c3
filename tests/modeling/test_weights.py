"""Starting weights mapped from their files: the same bits as transformers reads, held once, and a `.bin` converted once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import FAMILIES, make_encoder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling import bin_weights, weights
from xlmr_sweep.modeling.bin_weights import as_safetensors
from xlmr_sweep.modeling.loading import load_config, load_masked_lm, starting_weights
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.modeling.weights import as_arrays, as_tensors, mapped_weights, stamp
from xlmr_sweep.study.model_files import WEIGHTS_INDEX
from xlmr_sweep.study.user_cache import user_cache


def plain(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def as_bin(folder: Path, dtype: torch.dtype = torch.float32, *, old: bool = False) -> Path:
    """Puts a folder's weights into one `.bin`, tied ones under both names."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"]
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=not old)
    (folder / "model.safetensors").unlink()
    return path


def converted(folder: Path) -> Path:
    """Returns this node's folder with what a folder's `.bin` holds, made if it is not there."""
    files = as_safetensors(ModelSource("m", str(folder)), [folder / "pytorch_model.bin"])
    assert files
    return files[0].parent


@pytest.mark.parametrize("family", FAMILIES)
def test_mapped_weights_are_those_that_transformers_reads(family: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, family)
    source = ModelSource("m", str(folder))
    found = mapped_weights(source, load_config(source))
    assert found is not None
    assert_same(found, plain(folder))
    arrays = as_arrays(found)
    # A tied weight is there once, under both of its names.
    assert sum(array.nbytes for array in arrays.values()) < sum(tensor.nbytes for tensor in found.values())
    again = as_tensors(arrays)
    assert_same(again, found)
    assert all(again[name].data_ptr() == found[name].data_ptr() for name in found)


def test_weights_that_are_not_the_models_own_one_by_one_are_read_by_transformers(tmp_path: Path) -> None:
    half = make_encoder(tmp_path / "half")
    tensors = load_file(half / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, half / "model.safetensors", {"format": "pt"})
    bare = make_encoder(tmp_path / "bare", "bert", head=False)
    for folder, new_head in ((half, False), (bare, True)):
        source = ModelSource("m", str(folder), None, new_head)
        assert mapped_weights(source, load_config(source)) is None
        if new_head:
            with pytest.warns(UserWarning, match="a new one was made"):
                assert_same(starting_weights(source), dict(load_masked_lm(source).state_dict()))
        else:
            assert_same(starting_weights(source), plain(folder))


@pytest.mark.parametrize(("dtype", "old"), [(torch.float32, False), (torch.float16, False), (torch.float32, True)])
def test_a_bin_is_converted_once_and_gives_the_same_weights(dtype: torch.dtype, old: bool, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    expected = {name: tensor.to(dtype).float() for name, tensor in plain(folder).items()}
    as_bin(folder, dtype, old=old)
    source = ModelSource("m", str(folder))
    assert_same(starting_weights(source), expected)
    made = converted(folder)
    assert made.is_relative_to(user_cache())
    assert mapped_weights(source, load_config(source)) is not None, "mapped from what was made"
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert_same(dict(load_masked_lm(source).state_dict()), expected)
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before
    assert sorted(path.suffix for path in made.parent.iterdir()) == ["", ".lock"], "nothing half-made is left"
    names = [name for file in made.glob("*.safetensors") for name in load_file(file)]
    assert "lm_head.decoder.weight" not in names, "a tied weight is kept once"


def test_large_bin_weights_are_cut_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_encoder(tmp_path / "model")
    expected = plain(folder)
    as_bin(folder)
    monkeypatch.setattr(bin_weights, "FILE_BYTES", 20_000)
    source = ModelSource("m", str(folder))
    assert_same(starting_weights(source), expected)
    made = converted(folder)
    files = sorted(path.name for path in made.glob("*.safetensors"))
    assert len(files) > 3
    listed = json.loads((made / WEIGHTS_INDEX).read_text())["weight_map"]
    assert sorted(set(listed.values())) == files
    assert_same(dict(load_masked_lm(source).state_dict()), expected)


def test_another_bin_in_the_same_place_is_converted_anew(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    as_bin(folder)
    source = ModelSource("m", str(folder))
    first = starting_weights(source)
    other = make_encoder(tmp_path / "other", seed=1)
    expected = plain(other)
    shutil.copy(as_bin(other), folder / "pytorch_model.bin")
    assert_same(starting_weights(source), expected)
    assert not torch.equal(
        first["roberta.embeddings.word_embeddings.weight"], expected["roberta.embeddings.word_embeddings.weight"]
    )


def test_a_damaged_bin_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model")
    path = as_bin(folder)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(StudyError, match=r"model m: .*pytorch_model.bin is damaged: .*; copy the weights again") as error:
        starting_weights(ModelSource("m", str(folder)))
    assert "\n" not in str(error.value)
    assert {entry.suffix for entry in (user_cache() / "converted").iterdir()} == {".lock"}


def test_a_bin_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    folder = make_encoder(tmp_path / "model")
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudyError, match="is damaged"):
        starting_weights(ModelSource("m", str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_cache_that_cannot_be_written_costs_only_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_encoder(tmp_path / "model")
    expected = plain(folder)
    as_bin(folder)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_same(starting_weights(ModelSource("m", str(folder))), expected)
    assert "is not kept in safetensors" in caplog.text


def test_the_hubs_bin_is_converted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the hub's client, which gives files of a folder."""
    folder = make_encoder(tmp_path / "snapshot")
    expected = plain(folder)
    as_bin(folder)
    asked: list[tuple[str, str]] = []

    def cached_file(repository: str, name: str, *, revision: str, **options: Any) -> str | None:
        asked.append((repository, revision))
        return str(folder / name) if (folder / name).is_file() else None

    monkeypatch.setattr(weights, "cached_file", cached_file)
    source = ModelSource("m", "someone/model", "abc")
    assert_same(mapped_weights(source, load_config(ModelSource("m", str(folder)))) or {}, expected)
    assert converted(folder).is_dir()
    assert set(asked) == {("someone/model", "abc")}


def test_weights_made_anew_in_the_same_folder_have_another_stamp(tmp_path: Path) -> None:
    source = ModelSource("m", str(make_encoder(tmp_path / "model")))
    first = stamp(source)
    assert stamp(source) == first
    make_encoder(tmp_path / "model", seed=1)
    assert stamp(source) != first
    assert stamp(ModelSource("m", "hub/id", "one")) != stamp(ModelSource("m", "hub/id", "two"))


def test_weights_that_a_configuration_ties_but_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "apart")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    (embedding,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
    own = {"lm_head.decoder.weight": tensors[embedding] + 1.0, "lm_head.decoder.bias": tensors["lm_head.bias"].clone()}
    save_file(tensors | own, file, metadata={"format": "pt"})
    source = ModelSource("m", str(folder))
    for read in (load_masked_lm, starting_weights):
        with pytest.raises(StudyError, match="model m: .*apart has unlike input and output embeddings"):
            read(source)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    load_config.cache_clear()
    assert torch.equal(starting_weights(source)["lm_head.decoder.weight"], tensors[embedding] + 1.0)
