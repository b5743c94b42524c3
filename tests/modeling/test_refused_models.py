"""Models that load and cannot be prompted, or that want code of their own, are refused in one line with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_encoder
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForPreTraining, BartConfig, BartForConditionalGeneration

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.loading import load_config, load_tokenizer
from xlmr_sweep.modeling.model_check import check_model
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.tasks import CB


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> ModelSource:
    """Changes the weights of a folder."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return ModelSource("m", str(folder))


def set_config(folder: Path, name: str = "config.json", **values: Any) -> ModelSource:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    load_config.cache_clear()
    return ModelSource("m", str(folder))


def test_debertas_third_version_is_refused_because_its_head_was_never_trained(tmp_path: Path) -> None:
    """The files of the hub hold the discriminator's head, and a head whose names transformers' class does not have."""
    folder = make_encoder(tmp_path, "deberta-v2", pooler_hidden_size=32)
    left = {"mask_predictions.dense.weight": torch.ones(32, 32), "lm_predictions.lm_head.dense.weight": torch.ones(32, 32)}
    source = rewrite(folder, lambda weights: {n: t for n, t in weights.items() if not n.startswith("cls.")} | left)
    with pytest.raises(StudyError, match=r"learned to find replaced tokens \(mask_predictions.dense.weight\)") as error:
        check_model(source, [CB])
    assert "a masked-LM head was never trained for it, so it cannot be prompted" in str(error.value)
    notes = check_model(ModelSource("m", str(folder), new_head=True), [CB])
    assert any("has no masked-LM head; a new one is made" in note for note in notes)


def test_a_deberta_whose_head_was_trained_is_taken(tmp_path: Path) -> None:
    source = ModelSource("m", str(make_encoder(tmp_path, "deberta-v2", pooler_hidden_size=32)))
    assert check_model(source, [CB]) == []


def test_electras_discriminator_is_refused_and_its_generator_taken(tmp_path: Path) -> None:
    generator = make_encoder(tmp_path / "generator", "electra")
    assert check_model(ModelSource("m", str(generator)), [CB]) == []
    folder = make_encoder(tmp_path / "discriminator", "electra")
    model = AutoModelForPreTraining.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    with pytest.raises(StudyError, match=r"replaced tokens \(discriminator_predictions.*for ELECTRA its generator"):
        check_model(ModelSource("m", str(folder)), [CB])


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    config = BartConfig(
        vocab_size=70, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    load_config.cache_clear()
    with pytest.raises(StudyError, match=r"model m: .* is an encoder with a decoder \(bart\); give an encoder alone"):
        check_model(ModelSource("m", str(folder)), [CB])


def test_a_type_that_comes_with_code_is_refused_and_transformers_own_type_named(tmp_path: Path) -> None:
    for place, more in (("a", {}), ("b", {"auto_map": {"AutoConfig": "someone/code--configuration.NewConfig"}})):
        source = set_config(make_encoder(tmp_path / place, "gte"), model_type="new", **more)
        with pytest.raises(StudyError, match="comes with code of its own") as error:
            load_config(source)
        assert str(error.value).endswith("transformers' own type for such models is gte")
        assert "\n" not in str(error.value)


def test_weights_with_the_names_of_that_code_load_as_the_own_type(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, "gte")
    file = folder / "model.safetensors"
    weights = {f"new.{name.removeprefix('gte.')}" if name.startswith("gte.") else name: t for name, t in load_file(file).items()}
    assert "new.encoder.layer.0.attention.qkv_proj.weight" in weights
    save_file(weights, file, {"format": "pt"})
    assert check_model(ModelSource("m", str(folder)), [CB]) == []


def test_tokens_that_begin_and_end_a_text_are_found_by_either_name(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, "eurobert")
    source = set_config(folder, "tokenizer_config.json", cls_token=None, sep_token=None, bos_token="<s>", eos_token="</s>")
    tokenizer = load_tokenizer(source)
    assert tokenizer("a", "b")["input_ids"][0] == tokenizer.cls_token_id == tokenizer.bos_token_id == 0
    assert tokenizer.sep_token == "</s>"
    assert check_model(source, [CB]) == []
