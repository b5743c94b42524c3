"""A `.bin` is read without running code, converted once a node, and gives the same weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_encoder
from plain_weights import assert_same, plain
from safetensors.torch import load_file

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling import bin_weights, weights
from xlmr_sweep.modeling.bin_weights import as_safetensors
from xlmr_sweep.modeling.loading import load_config, load_masked_lm, starting_weights
from xlmr_sweep.modeling.model_check import check_model
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.modeling.weights import mapped_weights
from xlmr_sweep.study.model_files import WEIGHTS_INDEX
from xlmr_sweep.study.user_cache import user_cache


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
    # All files of an archive may have one time, and weights of one kind have one size.
    os.utime(as_bin(folder), ns=(0, 0))
    source = ModelSource("m", str(folder))
    first = starting_weights(source)
    other = make_encoder(tmp_path / "other", seed=1)
    expected = plain(other)
    shutil.copy(as_bin(other), folder / "pytorch_model.bin")
    os.utime(folder / "pytorch_model.bin", ns=(0, 0))
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


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_place_of_weights_runs_no_code(name: str, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    folder = make_encoder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil()}, folder / name)
    with pytest.raises(StudyError, match=f"model m: .*{name} is damaged"):
        starting_weights(ModelSource("m", str(folder)))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(StudyError, match="model m: "):
        check_model(ModelSource("m", str(folder)), [])
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


@pytest.mark.parametrize("second", ["cls.predictions.decoder.weight", "bert.encoder.layer.1.output.dense.weight", "transposed"])
def test_weights_that_share_memory_and_are_not_tied_are_loaded(second: str, tmp_path: Path) -> None:
    """`torch.save` writes what shares memory once. The check finds both names, so the loader must, too."""
    folder = make_encoder(tmp_path / "model", "bert", tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    first = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.output.dense.weight": "bert.encoder.layer.0.output.dense.weight",
        "transposed": "bert.encoder.layer.1.attention.self.query.weight",
    }[second]
    name = "bert.encoder.layer.1.attention.self.key.weight" if second == "transposed" else second
    tensors[name] = tensors[first].t() if second == "transposed" else tensors[first]
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    source = ModelSource("m", str(folder))
    assert check_model(source, []) == []
    assert torch.equal(starting_weights(source)[name], tensors[name])
    assert torch.equal(load_masked_lm(source).state_dict()[name], tensors[name])
    assert set(starting_weights(source)) == set(load_masked_lm(source).state_dict())
