"""Which files of a folder are its model: those that transformers loads, and the hash that is made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import file_hash, model_hash
from xlmr_sweep.study.model_files import config_file, find_model_files, tokenizer_file

INDEX = "model.safetensors.index.json"
BIN_INDEX = "pytorch_model.bin.index.json"


def folder_with(folder: Path, *names: str, parts: dict[str, tuple[str, ...]] | None = None, config: str = "{}") -> Path:
    """Writes files whose content is their name, indexes that name parts, and a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    for index, named in (parts or {}).items():
        (folder / index).write_text(json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(named)}}))
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("names", "parts", "chosen", "not_read"),
    [
        (["model.safetensors"], {}, ["model.safetensors"], []),
        (["model.safetensors", "model_old.safetensors"], {}, ["model.safetensors"], ["model_old.safetensors"]),
        (["pytorch_model.bin", "pytorch_model_best.bin"], {}, ["pytorch_model.bin"], ["pytorch_model_best.bin"]),
        (["model.safetensors", "pytorch_model.bin"], {}, ["model.safetensors"], ["pytorch_model.bin"]),
        (["pytorch_model.bin", "adapter_model.safetensors"], {}, ["pytorch_model.bin"], ["adapter_model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], {}, ["pytorch_model.bin"], []),
        (["a.safetensors", "b.safetensors"], {INDEX: ("a.safetensors", "b.safetensors")}, ["a.safetensors", "b.safetensors"], []),
        # Parts of an older save with another number of them.
        (
            ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model-3-of-3.safetensors"],
            {INDEX: ("model-1-of-2.safetensors", "model-2-of-2.safetensors")},
            ["model-1-of-2.safetensors", "model-2-of-2.safetensors"],
            ["model-3-of-3.safetensors"],
        ),
        # One file comes before the index of several, safetensors before `.bin`.
        (
            ["model.safetensors", "model-1-of-1.safetensors"],
            {INDEX: ("model-1-of-1.safetensors",)},
            ["model.safetensors"],
            ["model-1-of-1.safetensors"],
        ),
        (["part.safetensors", "pytorch_model.bin"], {INDEX: ("part.safetensors",)}, ["part.safetensors"], ["pytorch_model.bin"]),
        (["x.bin", "y.bin"], {BIN_INDEX: ("x.bin", "y.bin")}, ["x.bin", "y.bin"], []),
        (["parts/x.safetensors"], {INDEX: ("parts/x.safetensors",)}, ["parts/x.safetensors"], []),
        (["model.safetensors", ".model_hidden.safetensors"], {}, ["model.safetensors"], []),
    ],
)
def test_weights_are_the_one_file_or_else_what_the_index_names(
    names: list[str], parts: dict[str, tuple[str, ...]], chosen: list[str], not_read: list[str], tmp_path: Path
) -> None:
    files = find_model_files(folder_with(tmp_path, *names, parts=parts))
    assert files.problem == ""
    assert [path.relative_to(tmp_path).as_posix() for path in files.weights] == chosen
    assert [path.name for path in files.not_read] == not_read
    read = {path.relative_to(tmp_path).as_posix() for path in files.read_by_loading()}
    assert set(chosen) <= read
    assert not set(not_read) & read


def test_a_configuration_that_names_its_weights_is_followed_inside_the_folder(tmp_path: Path) -> None:
    named = folder_with(
        tmp_path / "a", "model.safetensors", "other.safetensors", config='{"transformers_weights": "other.safetensors"}'
    )
    assert [path.name for path in find_model_files(named).weights] == ["other.safetensors"]
    outside = folder_with(tmp_path / "b", "model.safetensors", config='{"transformers_weights": "../a/other.safetensors"}')
    assert (
        "transformers_weights: ../a/other.safetensors is no file of weights in this folder" in find_model_files(outside).problem
    )


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        ([], None, "holds no weights"),
        (["best.safetensors"], None, "holds no weights .*; it holds best.safetensors"),
        (["a.safetensors"], {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}, "lacks b.safetensors, which .* names"),
        (["a.safetensors"], {"weight_map": {"x": "../a.safetensors"}}, "names ../a.safetensors, which is not in this folder"),
        (["a.safetensors"], {"weight_map": {}}, "is damaged: it names no file"),
        (["a.safetensors"], {"weight_map": {"x": 3}}, "is damaged"),
        (["a.safetensors"], [], "is damaged"),
    ],
)
def test_what_is_wrong_with_the_weights_is_said(names: list[str], index: object, said: str, tmp_path: Path) -> None:
    folder_with(tmp_path, *names)
    if index is not None:
        (tmp_path / INDEX).write_text(json.dumps(index))
    files = find_model_files(tmp_path)
    assert files.weights == ()
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(files.problem)


@pytest.mark.parametrize(
    "names",
    [
        [],
        None,
        "tokenizer.4.0.0.json",
        ["tokenizer.json"],
        ["tokenizer.4.0.0.json", "tokenizer.json"],
        ["tokenizer.4.0.0.json", "tokenizer.5.1.0.json", "tokenizer.99.0.0.json"],
        ["tokenizer.99.0.0.json"],
        ["tokenizer.10.0.0.json", "tokenizer.4.0.0.json"],
        ["other.json", "my-tokenizer.4.1.json"],
    ],
)
def test_the_tokenizer_of_a_version_is_chosen_as_transformers_chooses_it(names: object) -> None:
    from transformers.tokenization_utils_base import get_fast_tokenizer_file

    assert tokenizer_file({"fast_tokenizer_files": names}) == get_fast_tokenizer_file(names if isinstance(names, list) else [])


def listing(folder: Path) -> str:
    """Returns the hash that version 0.1 gave a folder: of every file with these endings."""
    endings = (".json", ".safetensors", ".bin", ".txt", ".model")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(endings))
    return fingerprint({path.name: file_hash(path, "x") for path in files}, 32)


def test_the_hash_of_a_folder_with_the_weights_of_one_model_is_as_before(tmp_path: Path) -> None:
    one = folder_with(tmp_path / "one", "model.safetensors", "tokenizer.json", "training_args.bin")
    several = folder_with(
        tmp_path / "several", "a.safetensors", "b.safetensors", parts={INDEX: ("a.safetensors", "b.safetensors")}
    )
    for folder in (one, several):
        assert model_hash(folder, "x") == listing(folder)


@pytest.mark.parametrize("name", ["parts/a.safetensors", ".a.safetensors", "a.pt"])
def test_weights_that_an_index_names_count_wherever_they_lie(name: str, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    index = INDEX if name.endswith(".safetensors") else "pytorch_model.bin.index.json"
    folder = folder_with(tmp_path, name, "tokenizer.json", parts={index: (name,)})
    found = model_hash(folder, "x")
    (folder / name).write_text("other weights")
    assert model_hash(folder, "x") != found
    in_0_1 = model_hash(folder, "x", as_in_0_1=True)
    (folder / name).write_text("again other weights")
    assert model_hash(folder, "x", as_in_0_1=True) == in_0_1, "it did not look at them"


@pytest.mark.parametrize(
    "names",
    [[], ["config.4.0.0.json"], ["config.json", "config.99.0.0.json"], ["config.4.0.0.json", "config.5.1.0.json"], ["a.json"]],
)
def test_the_configuration_of_a_version_is_known_as_transformers_chooses_it(names: list[str]) -> None:
    from transformers.configuration_utils import get_configuration_file

    assert config_file({"configuration_files": names}) == get_configuration_file(names)


def test_other_weights_beside_the_models_give_a_new_hash_and_their_content_does_not_count(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "stray", "model.safetensors", "model_old.safetensors")
    found = model_hash(folder, "x")
    assert found != listing(folder)
    assert model_hash(folder, "x", as_in_0_1=True) == listing(folder)
    (folder / "model_old.safetensors").write_text("changed")
    assert model_hash(folder, "x") == found
    # Two folders with the same weights stay two models of a study.
    alone = folder_with(tmp_path / "alone", "model.safetensors")
    assert model_hash(alone, "x") != found
    shutil.copy(folder / "model_old.safetensors", folder / "model.safetensors")
    assert model_hash(folder, "x") != found
