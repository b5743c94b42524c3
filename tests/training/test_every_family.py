"""A tiny model of every family, its special tokens spelt as it does, goes through instruction tuning and all paradigms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builders import EVERY_FAMILY, OWN_SPECIAL, SPECIAL, make_encoder, write_tokenizer
from small_trials import pick, prepared, settings
from transformers import AutoModelForMaskedLM, AutoTokenizer

from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.modeling.families import FAMILIES
from xlmr_sweep.storage.artifacts import instruct_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.instruct import RankContext, train_rank


@pytest.mark.filterwarnings("ignore:.*no fast path")
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_model_goes_through_instruction_tuning_and_all_paradigms(
    family: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path / family, family, std=0.1)
    write_tokenizer(encoder, family=family, special=OWN_SPECIAL.get(family, SPECIAL))
    recipe = {"max_steps": 2, "global_batch_size": 8, "max_length": 64, "precision": "fp32", "learning_rate": 1e-2}
    study = load_study(
        str(study_file(models=[{"name": "tiny", "folder": str(encoder)}], instruct=recipe, finetune=settings(steps=2)))
    )
    storage = Storage(tmp_path / "runs")
    warm = prepared(study, storage)
    prepare_mixture(study, storage)
    told = {"study": study.model_dump(mode="json"), "model": "tiny", "storage": storage.uri, "use_gpu": False}
    assert train_rank(told, RankContext(0, 1, None, lambda step, folder: None)) is None

    tuned = tmp_path / "runs" / instruct_folder(study, study.models[0])
    before, after = (AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32) for folder in (encoder, tuned))
    assert after.config.model_type == family
    assert AutoTokenizer.from_pretrained(tuned).mask_token == OWN_SPECIAL.get(family, SPECIAL)[4]
    still = [name for name, tensor in before.named_parameters() if torch.equal(tensor, after.get_parameter(name))]
    # Rows of positions and types that no text has stay; biases too small for fp32 may.
    assert not [name for name in still if before.get_parameter(name).ndim == 2 and "embeddings" not in name]

    scores = {paradigm: finetune(pick(study, paradigm), warm) for paradigm in ("baseline", "prompted", "instructed")}
    assert all(outcome.columns["family"] == family for outcome in scores.values())
    body = sum(p.numel() for p in before.parameters() if before.config.vocab_size not in p.shape)
    assert {outcome.columns["num_body_parameters"] for outcome in scores.values()} == {body}
    # Another start gives other scores: the instructed trial took the tuned weights.
    assert scores["prompted"].predictions["score_0"] != scores["instructed"].predictions["score_0"]


def test_no_family_with_a_row_of_its_own_is_left_out() -> None:
    named = {family.model_type for family in FAMILIES.values() if family.title}
    assert named == set(EVERY_FAMILY)
    assert not any(FAMILIES[family].native_type for family in EVERY_FAMILY)
