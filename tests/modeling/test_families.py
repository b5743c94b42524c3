"""What each row says of its family, held against transformers' own models of that type."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.encoder import ClassificationHead
from xlmr_sweep.modeling.families import FAMILIES, ModelFamily, model_family, usable_length
from xlmr_sweep.training.trial_model import dropout_of

SHAPE = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 40}
FAST = [family for family in FAMILIES.values() if family.has_fast_path]
each_fast_family = pytest.mark.parametrize("family", FAST, ids=lambda family: family.model_type)
each_native_family = pytest.mark.parametrize(
    "family", [family for family in FAMILIES.values() if not family.native_type], ids=lambda family: family.model_type
)


def config(family: ModelFamily, **more: Any) -> Any:
    own = {"xmod": {"languages": ["en"], "default_language": "en"}, "luke": {"entity_vocab_size": 5}}.get(family.model_type, {})
    return AutoConfig.for_model(family.model_type, **{**SHAPE, "max_position_embeddings": 20, "pad_token_id": 3, **own, **more})


@each_fast_family
def test_heads_and_encoders_are_named_as_transformers_names_them(family: ModelFamily) -> None:
    model = AutoModelForMaskedLM.from_config(config(family))
    names = {f"{name}." for name, _ in model.named_children() if name != model.base_model_prefix}
    assert names == set(family.head_prefixes)
    assert model.base_model_prefix == family.encoder_prefix


@each_fast_family
def test_the_weights_with_a_row_a_token_are_all_named(family: ModelFamily) -> None:
    state = AutoModelForMaskedLM.from_config(config(family)).state_dict()
    with_rows = {name for name, tensor in state.items() if tensor.shape[0] == SHAPE["vocab_size"]}
    assert with_rows == {name for name in state if name.endswith(family.vocabulary_weights) and name in with_rows}
    assert sum(name.endswith(family.embedding) for name in state) == 1


@each_native_family
def test_the_longest_input_is_the_longest_that_the_model_takes(family: ModelFamily) -> None:
    made = config(family)
    model = AutoModelForMaskedLM.from_config(made).eval()
    usable = usable_length(made.to_dict())
    assert model(input_ids=torch.full((1, usable), 5)).logits.shape[:2] == (1, usable)
    # Rotary positions have no end.
    if any("position_embeddings" in name for name in model.state_dict()):
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, usable + 1), 5))


@each_native_family
def test_parameters_are_counted_exactly_where_there_is_a_fast_path(family: ModelFamily) -> None:
    made = config(family)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(made)
    shape = Architecture.from_config(made.to_dict())
    assert shape is not None
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert shape.exact == family.has_fast_path
    assert not shape.exact or shape.num_parameters == counted
    # One row more of the vocabulary.
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config(family, vocab_size=SHAPE["vocab_size"] + 1))
    more = sum(parameter.numel() for parameter in model.parameters())
    assert not shape.exact or more - counted == shape.row_parameters


@pytest.mark.parametrize("kind", ["albert", "distilbert", "electra", "mpnet"])
def test_shared_layers_small_embeddings_and_other_names_of_sizes_are_counted_nearly(kind: str) -> None:
    ffn = FAMILIES[kind].size_names.get("intermediate_size", "intermediate_size")
    made = config(FAMILIES[kind], hidden_size=96, num_hidden_layers=4, **{ffn: 200})
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(made)
    shape = Architecture.from_config(made.to_dict())
    assert shape is not None
    assert shape.num_parameters == pytest.approx(sum(parameter.numel() for parameter in model.parameters()), rel=0.01)


@each_native_family
def test_dropout_of_a_new_head_is_the_familys_own(family: ModelFamily) -> None:
    made = config(family)
    own = [getattr(made, name) for name in family.head_dropout if getattr(made, name, None) is not None]
    assert dropout_of(made) == (own[0] if own else 0.0)
    # A setting of another name would be left out in silence.
    named = {name for name in vars(made) if "dropout" in name and ("class" in name or name == "dropout")}
    assert named <= {*family.head_dropout, *(name for name in named if family.model_type == "xmod")}


@each_fast_family
def test_a_classification_head_called_ours_has_its_names_and_shapes(family: ModelFamily) -> None:
    model = AutoModelForSequenceClassification.from_config(config(family, num_labels=3))
    theirs = {name: p.shape for name, p in model.named_parameters() if not name.startswith(model.base_model_prefix)}
    ours = {
        f"classifier.{name}": p.shape for name, p in ClassificationHead(SHAPE["hidden_size"], 3, 0.0, 0.02).named_parameters()
    }
    assert (theirs == ours) == family.has_our_classification_head


@each_fast_family
def test_all_layers_have_the_weights_that_the_first_lacks(family: ModelFamily) -> None:
    layers: dict[str, set[str]] = {"0": set(), "1": set()}
    for name, _ in AutoModelForMaskedLM.from_config(config(family)).named_parameters():
        for number, names in layers.items():
            if f".{number}." in name and ".layer" in name:
                names.add(name.split(f".{number}.", 1)[1])
    assert layers["0"]
    assert layers["1"] - layers["0"] == set(family.first_layer_lacks)


def test_a_type_without_a_row_promises_nothing() -> None:
    unknown = model_family({"model_type": "unheard"})
    assert unknown == ModelFamily("unheard")
    assert not unknown.has_fast_path
    assert usable_length({"model_type": "unheard", "max_position_embeddings": 70, "pad_token_id": 1}) == 70


def test_families_are_told_without_torch() -> None:
    code = "import sys, xlmr_sweep.modeling.families; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
