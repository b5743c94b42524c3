"""Models and tokenizers that load, and the one line that is said of those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import WORDS, make_encoder, write_tokenizer
from safetensors.torch import load_file, save_file

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.loading import load_masked_lm, load_tokenizer
from xlmr_sweep.modeling.model_check import check_model
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import CB, RTE


def test_a_model_without_head_is_refused_unless_asked_for(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "headless", "bert", head=False)
    source = ModelSource("mini", str(folder))
    for refuse in (lambda: check_model(source, [CB]), lambda: load_masked_lm(source)):
        with pytest.raises(StudyError, match="model mini: .* has no masked-LM head; set new_head: true"):
            refuse()
    asked = ModelSource("mini", str(folder), new_head=True)
    assert check_model(asked, [CB])
    with pytest.warns(UserWarning, match="model mini: .* has no masked-LM head; a new one was made"):
        first = load_masked_lm(asked).state_dict()
    with pytest.warns(UserWarning, match="a new one was made"):
        second = load_masked_lm(asked).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_here_is_not_read_in_the_hubs_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "x/y"}], "sizes": [1], "seeds": [0]})
    storage = Storage(tmp_path / "runs")
    assert base_source(storage, study, study.models[0]).location == "x/y"
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(StudyError, match=r"model m: hub: x/y is also a folder here, .*/x/y, .* give it as folder"):
        base_source(storage, study, study.models[0])


def test_the_head_is_looked_for_in_bin_weights_too(tmp_path: Path) -> None:
    for head in (True, False):
        folder = make_encoder(tmp_path / str(head), head=head)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert not check_model(ModelSource("old", str(tmp_path / "True")), [])
    with pytest.raises(StudyError, match="model old: .* has no masked-LM head"):
        check_model(ModelSource("old", str(tmp_path / "False")), [])
    damaged = tmp_path / "True" / "pytorch_model.bin"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(StudyError, match="model old: .*pytorch_model.bin is damaged"):
        check_model(ModelSource("old", str(tmp_path / "True")), [])


def test_a_folder_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "whole")
    cases = {}
    (tmp_path / "empty").mkdir()
    cases["empty"] = "no tokenizer loads"
    for name, said in (("model.safetensors", "holds no weights"), ("config.json", "loads from")):
        copy = make_encoder(tmp_path / f"without-{name}")
        (copy / name).unlink()
        cases[copy.name] = said
    damaged = make_encoder(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    cases["damaged"] = "is damaged"
    tokens = make_encoder(tmp_path / "tokens")
    write_tokenizer(tokens, [*WORDS, "one", "zebra"])
    cases["tokens"] = "tokens and the model .*; they do not belong together"
    bare = make_encoder(tmp_path / "bare")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bare / file).unlink()
    cases["bare"] = "no tokenizer loads|holds no vocabulary|has no fast tokenizer"
    layers = make_encoder(tmp_path / "layers")
    weights = load_file(layers / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "layer.1." not in n}, layers / "model.safetensors", {"format": "pt"})
    cases["layers"] = "lacks weights of the encoder: .*layer.1"
    shape = make_encoder(tmp_path / "shape")
    name = "roberta.encoder.layer.0.output.dense.weight"
    save_file({**weights, name: weights[name][:, :5].contiguous()}, shape / "model.safetensors", {"format": "pt"})
    cases["shape"] = "has the shape"
    scrambled = make_encoder(tmp_path / "scrambled")
    (scrambled / "tokenizer.json").write_text('{"version": 1}')
    cases["scrambled"] = "no tokenizer loads"
    for name, said in cases.items():
        with pytest.raises(StudyError, match=f"model m: .*{said}") as error:
            check_model(ModelSource("m", str(tmp_path / name)), [])
        assert "\n" not in str(error.value)
    with pytest.raises(StudyError, match="max_length 129 is above the 128 positions"):
        check_model(ModelSource("m", str(folder)), [], 129)
    check_model(ModelSource("m", str(folder)), [], 128)
    with pytest.raises(StudyError, match="does not exist"):
        load_tokenizer(ModelSource("m", str(tmp_path / "nowhere")))


def test_a_label_word_of_two_tokens_names_model_task_and_word(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    task = RTE.model_copy(update={"label_words": ("yes", "no no")})
    with pytest.raises(StudyError, match="model m: task rte: label word 'no no' is 2 tokens"):
        check_model(ModelSource("m", str(folder)), [task])


def test_a_feed_forward_part_in_chunks_takes_any_number_of_tokens(tmp_path: Path) -> None:
    source = ModelSource("m", str(make_encoder(tmp_path, "bert", chunk_size_feed_forward=7)))
    model = load_masked_lm(source)
    assert model(input_ids=torch.arange(4, 17)[None]).logits.shape[1] == 13
