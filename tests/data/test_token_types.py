"""Token types that a model lacks are not given to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import make_encoder, write_tokenizer

from xlmr_sweep.data.encoding import Encoded, without_unknown_types
from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.warm_state import WarmState

IDS = torch.tensor([0, 5, 2, 6, 2])
PAIR = Encoded(IDS, 0, 0, torch.tensor([0, 0, 0, 1, 1]))
ALONE = replace(PAIR, token_type_ids=torch.zeros(5, dtype=torch.int64))
NO_TYPES = replace(PAIR, token_type_ids=None)


@pytest.mark.parametrize(("number", "is_kept"), [(0, False), (1, False), (2, True), (3, True)])
def test_types_stay_where_the_model_has_all_of_them(number: int, is_kept: bool) -> None:
    # One example with a type too many is enough: the others would be read in another way than it.
    found = without_unknown_types({"train": [ALONE], "validation": [PAIR, ALONE]}, number)
    assert {split: [example.token_type_ids is not None for example in pool] for split, pool in found.items()} == {
        "train": [is_kept],
        "validation": [is_kept, is_kept],
    }


def test_a_model_of_one_type_keeps_it_and_examples_without_types_stay() -> None:
    assert without_unknown_types({"train": [ALONE]}, 1)["train"][0].token_type_ids is ALONE.token_type_ids
    assert without_unknown_types({"train": [NO_TYPES]}, 0)["train"] == [NO_TYPES]


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_a_pair_trains_a_model_that_knows_no_second_type_as_if_there_were_none(
    family: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path / "encoder", family)
    settings = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32", "dropout": 0.0}
    losses = []
    # With BERT's tokenizer, which tells a pair's texts apart, and with XLM-R's, which has no types.
    for kind in ("bert", "xlm-roberta"):
        write_tokenizer(encoder, family=kind)
        study = load_study(str(study_file(finetune=settings, paradigms=["baseline"])))
        storage = Storage(tmp_path / kind)
        trial = next(trial for trial in expand(study) if trial.task == "cb")
        prepare_task(study, study.task("cb"), storage)
        losses.append(finetune(trial, WarmState(study, storage, World())).columns["train_loss"])
    assert losses[0] == losses[1]
