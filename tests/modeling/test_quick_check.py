"""The check without torch agrees with the full check, and is never surer than it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import FAMILIES, make_encoder

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.model_check import check_model
from xlmr_sweep.modeling.quick_check import quick_check
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.tasks import CB, RTE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_serves_is_seen(family: str, tmp_path: Path) -> None:
    source = ModelSource("tiny", str(make_encoder(tmp_path, family)))
    assert quick_check(source, [CB, RTE]) == check_model(source, [CB, RTE]) == []


def change(name: str, **values: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return write


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "tokenizer.json").write_text('{"version": 1}'),
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        change("config.json", model_type="deberta"),
        change("config.json", num_attention_heads=5),
        change("tokenizer_config.json", mask_token=None),
        change("tokenizer_config.json", mask_token="<nowhere>"),
    ],
)
def test_whatever_is_not_sure_goes_to_the_full_check(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    spoil(folder)
    assert quick_check(ModelSource("tiny", str(folder)), [CB]) is None


def test_a_missing_head_a_hub_id_and_a_word_of_two_tokens_go_to_the_full_check(tmp_path: Path) -> None:
    assert quick_check(ModelSource("tiny", str(make_encoder(tmp_path / "headless", "bert", head=False))), [CB]) is None
    assert quick_check(ModelSource("tiny", "FacebookAI/xlm-roberta-base"), [CB]) is None
    whole = ModelSource("tiny", str(make_encoder(tmp_path / "whole")))
    for words in (("yes", "no no"), ("yes", "unheard")):
        assert quick_check(whole, [RTE.model_copy(update={"label_words": words})]) is None
    assert quick_check(whole, [RTE]) == []


def test_label_words_are_asked_of_the_tokenizer_that_transformers_chooses(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    source = ModelSource("m", str(folder))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["perhaps"] = content["model"]["vocab"].pop("maybe")
    (folder / "tokenizer.4.0.0.json").write_text(json.dumps(content))
    assert quick_check(source, [CB]) == []
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "fast_tokenizer_files": ["tokenizer.4.0.0.json"]}))
    assert load_tokenizer(source).get_vocab().keys() >= {"perhaps"}
    assert quick_check(source, [CB]) is None
    with pytest.raises(StudyError, match="label word 'maybe' is an unknown token"):
        check_model(source, [CB])


def test_the_check_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, xlmr_sweep.modeling.quick_check; print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
