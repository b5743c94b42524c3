"""Tokenised tasks: the same after a way through flat arrays, and no token without a row goes by in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import WORDS, make_encoder

from xlmr_sweep.data.encoding import Encoded, encode_task
from xlmr_sweep.data.examples import load_task, prepare_task
from xlmr_sweep.data.tokenised import compact_inputs, compact_pool, from_arrays, to_arrays
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.compact import CompactVocabulary, build_compact
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.loading import load_config, load_tokenizer
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import CB
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.warm_state import WarmState


def warm_and_trial(path: Path, storage: Path, paradigm: str = "prompted") -> tuple[WarmState, Trial]:
    study = load_study(str(path))
    for task in study.tasks:
        prepare_task(study, task, Storage(storage))
    trial = next(t for t in expand(study) if (t.paradigm, t.task) == (paradigm, "cb"))
    return WarmState(study, Storage(storage), World()), trial


@pytest.mark.parametrize(("family", "paradigm"), [("xlm-roberta", "prompted"), ("bert", "baseline")])
def test_inputs_come_back_from_flat_arrays_as_they_were(
    family: str, paradigm: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_encoder(tmp_path / family, family)
    study = load_study(str(study_file()))
    prepare_task(study, CB, Storage(tmp_path / "runs"))
    data = load_task(study, CB, Storage(tmp_path / "runs"))
    tokenizer, prompted = load_tokenizer(ModelSource("m", str(folder))), paradigm == "prompted"
    pools = {
        split: encode_task(tokenizer, CB, rows, 64, prompted=prompted)
        for split, rows in (("train", data.train), ("validation", data.validation))
    }
    words = label_token_ids(tokenizer, CB) if prompted else []
    before = compact_inputs(CB, pools, words, tokenizer.all_special_ids, len(tokenizer), data.fingerprint, tokenizer)
    arrays = to_arrays(before)
    after = from_arrays(arrays)
    for split in ("train", "validation"):
        for one, two in zip(getattr(before, split), getattr(after, split), strict=True):
            assert torch.equal(one.input_ids, two.input_ids)
            assert (one.token_type_ids is None) == (two.token_type_ids is None) == (paradigm == "prompted")
            if one.token_type_ids is not None and two.token_type_ids is not None:
                assert torch.equal(one.token_type_ids, two.token_type_ids)
            assert (one.label, one.mask_at, one.example_id) == (two.label, two.mask_at, two.example_id)
    assert torch.equal(before.kept.token_ids, after.kept.token_ids)
    assert torch.equal(before.label_ids, after.label_ids)
    assert before.fingerprint == after.fingerprint
    first = after.train[0].input_ids
    assert first.data_ptr() == arrays["train/input_ids"].ctypes.data, "token ids are views"


def test_an_example_of_a_file_that_came_later_is_named_with_its_token(study_file: Callable[..., Path], tmp_path: Path) -> None:
    warm, trial = warm_and_trial(study_file(), tmp_path / "runs")
    kept = warm.inputs(trial).kept
    folder = warm.source(trial).location
    tokenizer = load_tokenizer(ModelSource("m", folder))
    data = load_task(warm.study, CB, warm.storage)
    unseen = next(word for word in WORDS if tokenizer.convert_tokens_to_ids(word) not in kept.token_ids.tolist())
    later = [{**data.validation[0], "premise": f"the cat {unseen}", "example_id": "late-7"}]
    pool = encode_task(tokenizer, CB, [*data.validation[:2], *later], 64, prompted=True)
    with pytest.raises(StudyError, match=f"task cb: example late-7 of the later set holds the token '{unseen}'") as error:
        compact_pool(CB, "later", pool, kept, tokenizer)
    assert "\n" not in str(error.value)
    assert len(compact_pool(CB, "later", pool[:2], kept, tokenizer)) == 2


def test_a_token_that_the_model_has_no_row_for_is_named_before_training(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """A tokenizer with a gap in its ids passes a count of its tokens."""
    folder = make_encoder(tmp_path / "gap")
    state = json.loads((folder / "tokenizer.json").read_text())
    words = state["model"]["vocab"]
    words["cat"] = len(words) + 5
    (folder / "tokenizer.json").write_text(json.dumps(state))
    warm, trial = warm_and_trial(study_file(models=[{"name": "m", "folder": str(folder)}]), tmp_path / "runs")
    with pytest.raises(StudyError, match=r"task cb: example \d+ of the train set holds the token 'cat' \(id \d+\), .* rows of"):
        finetune(trial, warm)
    words["yes"], words["cat"] = words["cat"], words["yes"]
    (folder / "tokenizer.json").write_text(json.dumps(state))
    warm, trial = warm_and_trial(study_file(models=[{"name": "m", "folder": str(folder)}]), tmp_path / "runs")
    with pytest.raises(StudyError, match="task cb: label word 'yes' holds the token 'yes'"):
        finetune(trial, warm)


def test_padding_keeps_its_place_whatever_the_tokenizer_calls_special(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """Positions of XLM-R are counted from the padding token's id: without the tokens before it, it would move."""
    folder = make_encoder(tmp_path / "moved", words=["unusual", *WORDS])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 5}))
    warm, trial = warm_and_trial(study_file(models=[{"name": "m", "folder": str(folder)}]), tmp_path / "runs")
    inputs = warm.inputs(trial)
    assert inputs.kept.token_ids[:6].tolist() == list(range(6))
    assert build_compact(load_config(warm.source(trial)), inputs.kept).config.pad_token_id == 5  # type: ignore[union-attr]
    assert 0 <= finetune(trial, warm).columns["score"] <= 1


def test_a_compact_id_is_never_that_of_another_token() -> None:
    kept = CompactVocabulary.of({4, 9}, [0, 1, 2])
    example = Encoded(torch.tensor([0, 4, 9]), 0, 0, None, "a")

    class Names:
        def convert_ids_to_tokens(self, token: int) -> str:
            return f"<{token}>"

    (found,) = compact_pool(CB, "train", [example], kept, Names())
    assert kept.token_ids[found.input_ids].tolist() == [0, 4, 9]
    with pytest.raises(StudyError, match=r"holds the token '<7>' \(id 7\), which is not among the 5 that the task keeps"):
        compact_pool(CB, "train", [replace(example, input_ids=torch.tensor([0, 7]))], kept, Names())
