"""Starting weights mapped from their files: the same bits as transformers reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from builders import FAMILIES, make_encoder
from plain_weights import assert_same, plain
from safetensors.torch import load_file, save_file

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.loading import load_config, load_masked_lm, starting_weights
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.modeling.weights import as_arrays, as_tensors, mapped_weights, stamp


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


def test_weights_made_anew_in_the_same_folder_have_another_stamp(tmp_path: Path) -> None:
    source = ModelSource("m", str(make_encoder(tmp_path / "model")))
    for path in (tmp_path / "model").iterdir():
        os.utime(path, ns=(0, 0))
    first = stamp(source)
    assert stamp(source) == first
    make_encoder(tmp_path / "model", seed=1)
    for path in (tmp_path / "model").iterdir():
        os.utime(path, ns=(0, 0))
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
        with pytest.raises(StudyError, match="model m: .*apart has different input and output embeddings"):
            read(source)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    load_config.cache_clear()
    assert torch.equal(starting_weights(source)["lm_head.decoder.weight"], tensors[embedding] + 1.0)
