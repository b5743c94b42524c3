"""What is said of a model folder before anything starts: both checks say the same, and neither trusts a name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from builders import FAMILIES, make_encoder
from hub_cache import cache_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling import loading, model_check
from xlmr_sweep.modeling import weights as weights_of
from xlmr_sweep.modeling.families import FAMILIES as ROWS
from xlmr_sweep.modeling.hub_files import announced_shapes
from xlmr_sweep.modeling.loading import load_config, load_masked_lm, load_tokenizer, starting_weights
from xlmr_sweep.modeling.model_check import check_model
from xlmr_sweep.modeling.quick_check import quick_check
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.tasks import CB


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> ModelSource:
    """Changes the weights of a folder."""
    file = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file, {"format": "pt"})
    return ModelSource("m", str(folder))


def set_config(folder: Path, name: str = "config.json", **values: Any) -> ModelSource:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    load_config.cache_clear()
    return ModelSource("m", str(folder))


def head_names(folder: Path) -> list[str]:
    family = ROWS[json.loads((folder / "config.json").read_text())["model_type"]]
    return [name for name in load_file(folder / "model.safetensors") if name.startswith(family.head_prefixes)]


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_quantised_weights_are_no_weights(kind: torch.dtype, ending: str, tmp_path: Path) -> None:
    """They have the shapes of the model's own, and mean something only beside their scales."""
    folder = make_encoder(tmp_path)

    def coded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: t.to(kind) if name.endswith("dense.weight") else t for name, t in weights.items()}

    source = rewrite(folder, coded)
    if ending == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert quick_check(source, [CB]) is None
    said = (
        rf"model m: .*\.{ending} holds weights as quantised codes, .*: \S+dense\.weight \(\S+\), .* and \d+ more; give the model"
    )
    with pytest.raises(StudyError, match=said):
        check_model(source, [CB])


def test_other_weights_in_the_folder_are_named_and_not_read(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "a")
    expected = {name: tensor.detach() for name, tensor in AutoModelForMaskedLM.from_pretrained(folder).state_dict().items()}
    other = load_file(make_encoder(tmp_path / "b", seed=1) / "model.safetensors")
    for name in ("model_old.safetensors", "model-00003-of-00003.safetensors", "a.safetensors", "zzz.safetensors"):
        save_file(other, folder / name, {"format": "pt"})
    torch.save(other, folder / "pytorch_model.bin")
    source = ModelSource("m", str(folder))
    quick, full = quick_check(source, [CB]), check_model(source, [CB])
    assert quick == full
    assert full == [
        f"{folder}/model.safetensors gives the weights; others in that folder are not read: a.safetensors, "
        "model-00003-of-00003.safetensors, model_old.safetensors, pytorch_model.bin, zzz.safetensors"
    ]
    for found in (starting_weights(source), load_masked_lm(source).state_dict()):
        assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def test_other_bin_files_are_not_read(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "a")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    torch.save(load_file(make_encoder(tmp_path / "b", seed=1) / "model.safetensors"), folder / "pytorch_model_best.bin")
    (folder / "model.safetensors").unlink()
    source = ModelSource("m", str(folder))
    (note,) = check_model(source, [CB])
    assert note.endswith("pytorch_model.bin gives the weights; others in that folder are not read: pytorch_model_best.bin")
    found = starting_weights(source)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_parts_of_an_older_save_are_not_read(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "a")
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model-00003-of-00003.safetensors")
    source = ModelSource("m", str(folder))
    assert quick_check(source, [CB]) == check_model(source, [CB]) != []
    found = starting_weights(source)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(StudyError, match="model m: .*lacks model-00002-of-00002.safetensors, which model.safetensors.index.json"):
        check_model(source, [CB])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", [1, 7])
def test_weights_without_a_place_are_named_five_of_them_and_how_many_more(family: str, number: int, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, family)
    extra = {f"extra.layer.{i}.distance_embedding.weight": torch.ones(2) for i in range(number)}
    source = rewrite(folder, lambda weights: weights | extra)
    quick, full = quick_check(source, [CB]), check_model(source, [CB])
    assert quick == full
    (note,) = full
    are = "1 weight has" if number == 1 else "7 weights have"
    assert note.startswith(f"{are} no place in transformers' masked-LM model of type {family}; {folder} is loaded without: ")
    listed = sorted(extra)[:5]
    assert note.endswith(", ".join(listed) + (" and 2 more" if number == 7 else ""))
    assert set(starting_weights(source)) == set(AutoModelForMaskedLM.from_pretrained(folder).state_dict())


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("esm", {"position_embedding_type": "rotary", "mask_token_id": 55, "token_dropout": False}),
        ("deberta", {"position_biased_input": False, "relative_attention": True, "pos_att_type": "c2p", "type_vocab_size": 0}),
    ],
)
def test_a_table_of_positions_without_a_place_is_named_also_where_transformers_does_not(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    source = ModelSource("m", str(make_encoder(tmp_path, family, **settings)))
    assert check_model(source, [CB]) == []
    name = f"{family}.embeddings.position_embeddings.weight"
    rewrite(tmp_path, lambda weights: weights | {name: torch.ones(130, 32)})
    (note,) = check_model(source, [CB])
    assert "1 weight has no place" in note
    assert note.endswith(name)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_weight_in_two_files_of_an_index_is_refused(ending: str, tmp_path: Path) -> None:
    """transformers takes the one of the last file, whatever the index says."""
    folder = make_encoder(tmp_path, "bert")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first, *others = sorted(weights)
    parts = {f"a.{ending}": {name: weights[name] for name in others}, f"b.{ending}": {first: weights[first]}}
    index = {name: file for file, part in parts.items() for name in part}
    stem = "model.safetensors" if ending == "safetensors" else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    source = ModelSource("m", str(folder))
    for copied, is_refused in (({}, False), ({others[0]: weights[others[0]] + 1}, True)):
        for file, part in (parts | {f"b.{ending}": parts[f"b.{ending}"] | copied}).items():
            if ending == "safetensors":
                save_file(part, folder / file, {"format": "pt"})
            else:
                torch.save(part, folder / file)
        if is_refused:
            assert quick_check(source, [CB]) is None
            with pytest.raises(StudyError, match=f"b.{ending} and a.{ending} both hold {others[0]}; one of them"):
                check_model(source, [CB])
        else:
            assert check_model(source, [CB]) == []


def test_layers_beyond_the_configurations_are_named(tmp_path: Path) -> None:
    source = set_config(make_encoder(tmp_path), num_hidden_layers=1)
    assert quick_check(source, [CB]) == check_model(source, [CB])
    assert "16 weights have no place" in check_model(source, [CB])[0]


def test_old_names_of_another_shape_are_named_with_both_shapes(tmp_path: Path) -> None:
    def older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {name: tensor for name, tensor in tensors.items() if not name.endswith("LayerNorm.weight")}
        return found | {name.replace("weight", "gamma"): torch.ones(5) for name in set(tensors) - set(found)}

    source = rewrite(make_encoder(tmp_path / "model"), older)
    with pytest.raises(
        StudyError, match=r"other shapes than its config.json says: roberta.*LayerNorm.weight \(5,\) for \(\d+,\)"
    ) as error:
        check_model(source, [CB])
    assert "above report" not in str(error.value)


def test_positions_that_old_files_hold_are_no_weights(tmp_path: Path) -> None:
    positions = {"roberta.embeddings.position_ids": torch.arange(130)[None]}
    source = rewrite(make_encoder(tmp_path), lambda weights: weights | positions)
    assert quick_check(source, [CB]) == check_model(source, [CB]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_lacks_any_weight_is_refused_and_made_new_where_that_is_asked(family: str, tmp_path: Path) -> None:
    whole = make_encoder(tmp_path / "whole", family)
    names = set(starting_weights(ModelSource("m", str(whole))))
    for index, lacking in enumerate(head_names(whole)):
        folder = make_encoder(tmp_path / str(index), family)
        source = rewrite(folder, lambda weights, lacking=lacking: {n: t for n, t in weights.items() if n != lacking})  # type: ignore[misc]
        assert quick_check(source, [CB]) is None
        for refuse in (check_model, lambda source, tasks: load_masked_lm(source)):
            with pytest.raises(StudyError, match="has no masked-LM head; set new_head: true .*it lacks .*" + re.escape(lacking)):
                refuse(source, [CB])
        asked = ModelSource("m", str(folder), new_head=True)
        (note,) = check_model(asked, [CB])
        assert lacking in note
        with pytest.warns(UserWarning, match="a new one was made"):
            found = starting_weights(asked)
        assert set(found) == names
        with pytest.warns(UserWarning, match="a new one was made"):
            assert all(torch.equal(tensor, found[name]) for name, tensor in starting_weights(asked).items())


def test_weights_of_another_head_are_no_masked_lm_head(tmp_path: Path) -> None:
    names = {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}
    folder = make_encoder(tmp_path, "bert", head=False)
    source = rewrite(folder, lambda weights: {f"bert.{name}": tensor for name, tensor in weights.items()} | names)
    with pytest.raises(StudyError, match="has no masked-LM head"):
        check_model(source, [CB])
    notes = check_model(ModelSource("m", str(folder), new_head=True), [CB])
    assert any("cls.seq_relationship.bias" in note and "no place" in note for note in notes)


@pytest.mark.parametrize("lacking", ["layer.1.output.dense.weight", "word_embeddings.weight", "position_embeddings.weight"])
def test_weights_of_the_encoder_that_are_missing_are_named_also_with_a_new_head(lacking: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    rewrite(folder, lambda weights: {name: tensor for name, tensor in weights.items() if not name.endswith(lacking)})
    for new_head in (False, True):
        with pytest.raises(StudyError, match=f"model m: .* lacks weights of the encoder: .*{re.escape(lacking)}"):
            check_model(ModelSource("m", str(folder), new_head=new_head), [CB])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_names_that_a_wrapper_put_before_all_weights_are_read(prefix: str, ending: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    source = ModelSource("m", str(folder))
    expected = starting_weights(source)
    rewrite(folder, lambda weights: {prefix + name: tensor for name, tensor in weights.items()})
    if ending == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert check_model(source, [CB]) == []
    for found in (starting_weights(source), load_masked_lm(source).state_dict()):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_weights_that_differ_though_they_are_tied_are_refused_before_anything_starts(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    name = "roberta.embeddings.word_embeddings.weight"
    source = rewrite(folder, lambda weights: weights | {"lm_head.decoder.weight": weights[name] + 1})
    assert quick_check(source, [CB]) is None
    with pytest.raises(StudyError, match="has different input and output embeddings"):
        check_model(source, [CB])
    rewrite(folder, lambda weights: weights | {"lm_head.decoder.weight": weights[name].clone()})
    assert check_model(source, [CB]) == []


@pytest.mark.parametrize("value", [None, -1, 10_000, "1"])
def test_a_padding_token_that_is_none_is_one_line(value: object, tmp_path: Path) -> None:
    source = set_config(make_encoder(tmp_path / "roberta"), pad_token_id=value)
    assert quick_check(source, [CB]) is None
    said = "pad_token_id is .*; set it to the id|no tokenizer loads .*'pad_token_id'"
    with pytest.raises(StudyError, match=f"model m: ({said})") as error:
        check_model(source, [CB])
    assert "\n" not in str(error.value)
    if value is None:
        # BERT's positions do not depend on it.
        bert = set_config(make_encoder(tmp_path / "bert", "bert"), pad_token_id=None)
        assert quick_check(bert, [CB]) == check_model(bert, [CB]) == []


def configured(folder: Path, **settings: object) -> Path:
    """Changes settings of a folder's `config.json`."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def test_positions_that_are_counted_from_another_token_than_the_padding_are_refused(tmp_path: Path) -> None:
    """transformers would give each such token in a text the position of padding."""
    folder = configured(make_encoder(tmp_path / "xlmr"), pad_token_id=0)
    source = ModelSource("m", str(folder))
    assert quick_check(source, [CB]) is None
    with pytest.raises(StudyError, match="pad_token_id is 0 in .*, and the tokenizer's padding token is 1; xlm-roberta counts"):
        check_model(source, [CB])
    bert = ModelSource("m", str(configured(make_encoder(tmp_path / "bert", "bert"), pad_token_id=0)))
    assert quick_check(bert, [CB]) == check_model(bert, [CB]) == []


@pytest.mark.parametrize("setting", ["is_decoder", "is_causal"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_model_that_attends_to_earlier_tokens_alone_is_refused(family: str, setting: str, tmp_path: Path) -> None:
    source = ModelSource("m", str(configured(make_encoder(tmp_path / "model", family), **{setting: True})))
    assert quick_check(source, [CB]) is None
    with pytest.raises(StudyError, match=f"model m: {setting} is true in .*config.json, so a token attends only to earlier ones"):
        check_model(source, [CB])


def test_a_folder_whose_configuration_is_another_file_for_this_transformers_is_refused(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", "bert")
    (folder / "config.4.0.0.json").write_text((folder / "config.json").read_text())
    source = ModelSource("m", str(configured(folder, configuration_files=["config.99.0.0.json"])))
    assert quick_check(source, [CB]) == check_model(source, [CB]) == []
    configured(folder, configuration_files=["config.4.0.0.json", "config.99.0.0.json"])
    assert quick_check(source, [CB]) is None
    with pytest.raises(StudyError, match=r"model m: .*config.json names config.4.0.0.json for this version of transformers"):
        check_model(source, [CB])


@pytest.mark.parametrize("family", [name for name, row in ROWS.items() if row.counts_positions_from_padding and name != "luke"])
def test_positions_before_the_first_are_no_room_for_tokens(family: str, tmp_path: Path) -> None:
    own = {"xmod": {"languages": ["en"], "default_language": "en"}, "longformer": {"attention_window": [8, 8]}}
    source = ModelSource("m", str(make_encoder(tmp_path, family, **own.get(family, {}))))
    assert not any("max_length" in note for note in check_model(source, [], 128))
    with pytest.raises(StudyError, match="max_length 129 is above the 128 positions"):
        check_model(source, [], 129)


def test_a_model_that_takes_no_plain_text_is_refused_before_anything_starts(tmp_path: Path) -> None:
    source = ModelSource("m", str(make_encoder(tmp_path, "xmod", languages=["en"])))
    with pytest.raises(StudyError, match="model m: .* cannot encode plain text: Input language unknown"):
        check_model(source, [CB])


def test_a_hubs_weights_are_checked_before_they_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the hub, which gives a folder's small files, the list of its files, and shapes of weights."""
    folder = make_encoder(tmp_path)
    config, tokenizer = load_config(ModelSource("m", str(folder))), load_tokenizer(ModelSource("m", str(folder)))
    for module in (loading, model_check):
        monkeypatch.setattr(module, "load_config", lambda source: config)
    monkeypatch.setattr(model_check, "load_tokenizer", lambda source: tokenizer)
    monkeypatch.setattr(weights_of, "cached_file", lambda *names, **options: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HubOfFolder(folder))
    cache_model(monkeypatch, tmp_path / "cache", "someone/model", folder, "abc")
    source = ModelSource("m", "someone/model", "abc")
    assert check_model(source, [CB]) == []
    rewrite(folder, lambda weights: weights | {"extra.weight": torch.ones(2)})
    (note,) = check_model(source, [CB])
    assert note.endswith("someone/model is loaded without: extra.weight")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    rewrite(folder, lambda weights: {name: tensor for name, tensor in weights.items() if "lm_head.dense" not in name})
    with pytest.raises(StudyError, match=r"someone/model has no masked-LM head; .* \(it lacks lm_head.dense"):
        check_model(source, [CB])
    # The file that the configuration names comes first, for the check and for what is loaded.
    named = {**json.loads((folder / "config.json").read_text()), "transformers_weights": "other.safetensors"}
    (folder / "config.json").write_text(json.dumps(named))
    assert check_model(source, [CB]) == [note]
    monkeypatch.setattr(weights_of, "cached_file", lambda where, name, **options: str(folder / name))
    assert [path.name for path in weights_of.weight_files(source)] == ["other.safetensors"]


def test_a_hub_that_lacks_weights_is_said_before_any_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModelSource("m", "someone/model", "abc")
    cache_model(monkeypatch, tmp_path / "cache", "someone/model", tmp_path, "abc")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HubOfFolder(tmp_path))
    assert announced_shapes(source) == {}, "a hub that does not answer is no fault of the model"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudyError, match=r"^model m: someone/model holds no weights \(model.safetensors, "):
        announced_shapes(source)
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "part-1.bin", "b": "part-2.bin"}}')
    (tmp_path / "part-1.bin").touch()
    with pytest.raises(StudyError, match=r"someone/model lacks part-2.bin, which pytorch_model.bin.index.json names"):
        announced_shapes(source)
    (tmp_path / "part-2.bin").touch()
    assert announced_shapes(source) == {}, "only whole .bin files tell their shapes"


def test_a_hubs_quantised_weights_are_refused_as_announced_and_once_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub tells nothing of weights in a `.bin`; they are refused where they are opened, in any process."""
    folder, source = make_encoder(tmp_path), ModelSource("m", "someone/model", "abc")
    rewrite(folder, lambda weights: {name: quantised(name, tensor) for name, tensor in weights.items()})
    cache_model(monkeypatch, tmp_path / "cache", "someone/model", folder, "abc")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: HubOfFolder(folder))
    with pytest.raises(StudyError, match=r"^model m: someone/model holds weights as quantised codes, .*dense.weight \(I8\)"):
        announced_shapes(source)
    monkeypatch.setattr(weights_of, "cached_file", lambda where, name, **options: found(folder / name))
    with pytest.raises(StudyError, match=r"^model m: .*model.safetensors holds weights as quantised codes"):
        weights_of.held_weights(source)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert announced_shapes(source) == {}
    with pytest.raises(StudyError, match=r"^model m: .* holds weights as quantised codes"):
        weights_of.held_weights(source)


def quantised(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.int8) if name.endswith("dense.weight") else tensor


def found(path: Path) -> str | None:
    return str(path) if path.is_file() else None


class HubOfFolder:
    """Answers as the hub's client, from the files of a folder. Weights cannot be fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list_repo_files(self, repository: str, *, revision: str) -> list[str]:
        assert (repository, revision) == ("someone/model", "abc")
        return [path.name for path in self._folder.iterdir()]

    def parse_safetensors_file_metadata(self, repository: str, name: str, *, revision: str) -> SimpleNamespace:
        with safe_open(self._folder / name, framework="np") as file:
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return SimpleNamespace(
                tensors={key: SimpleNamespace(shape=part.get_shape(), dtype=part.get_dtype()) for key, part in parts.items()}
            )

    def hf_hub_download(self, repository: str, name: str, *, revision: str) -> str:
        assert name.endswith(".index.json")
        return str(self._folder / name)


def test_a_hubs_weights_are_checked_where_the_cache_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the hub: configuration and tokenizer come from a folder, weights from the cache of files."""
    folder = make_encoder(tmp_path)
    local = rewrite(folder, lambda weights: weights | {"extra.weight": torch.ones(2)})
    source = ModelSource("m", "someone/model", "abc")
    config, tokenizer = load_config(local), load_tokenizer(local)
    for module in (loading, model_check):
        monkeypatch.setattr(module, "load_config", lambda source: config)
    monkeypatch.setattr(model_check, "load_tokenizer", lambda source: tokenizer)
    asked: list[bool] = []

    def cached_file(repository: str, name: str, *, local_files_only: bool, **options: Any) -> str | None:
        asked.append(local_files_only)
        return str(folder / name) if is_cached and (folder / name).is_file() else None

    monkeypatch.setattr(weights_of, "cached_file", cached_file)
    is_cached = False
    monkeypatch.setattr(model_check, "announced_shapes", lambda source: {})
    assert check_model(source, [CB]) == []
    is_cached = True
    (note,) = check_model(source, [CB])
    assert note.endswith("someone/model is loaded without: extra.weight")
    assert all(asked), "the check downloads nothing"


def test_code_of_a_folder_is_never_asked_for_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*arguments: object) -> str:
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import BertConfig as C, BertForMaskedLM as M\n"

    def make(name: str) -> Path:
        folder = make_encoder(tmp_path / name, "bert")
        (folder / "my.py").write_text(code)
        return folder

    foreign = make("foreign")
    source = set_config(foreign, model_type="mine", auto_map={"AutoConfig": "my.C", "AutoModelForMaskedLM": "my.M"})
    assert quick_check(source, [CB]) is None
    for refuse in (lambda: check_model(source, [CB]), lambda: load_config(source), lambda: load_masked_lm(source)):
        with pytest.raises(StudyError, match="comes with code of its own .*, which is never run") as error:
            refuse()
        assert "\n" not in str(error.value)
    # A type that transformers knows is loaded with transformers' own code, which is said.
    known = set_config(make("known"), auto_map={"AutoConfig": "my.C", "AutoModelForMaskedLM": "my.M"})
    (note,) = check_model(known, [CB])
    assert note.endswith("names code of its own (auto_map), which is never run; transformers' own bert is used")
    load_masked_lm(known)
    own = {"auto_map": {"AutoTokenizer": [None, "my.T"]}, "tokenizer_class": "T"}
    tokenizer = set_config(make("tokenizer"), "tokenizer_config.json", **own)
    assert quick_check(tokenizer, [CB]) is None
    try:
        load_tokenizer(tokenizer)
    except StudyError as error:
        assert "which is never run" in str(error)  # noqa: PT017 - whether it loads without is transformers' matter.
    assert not (tmp_path / "ran").exists()
