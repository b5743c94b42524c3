"""A warm process gives the bits of a cold one, and holds no more than it should."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import FAMILIES, make_encoder
from resident_pages import resident
from safetensors.torch import load_file
from small_trials import ALONE, pick, prepared, settings
from transformers import AutoConfig, AutoModelForMaskedLM

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.warm_state import WarmState


@pytest.mark.parametrize("family", FAMILIES)
def test_a_warm_process_gives_the_same_bits_as_a_cold_one(study_file: Callable[..., Path], tmp_path: Path, family: str) -> None:
    folder = make_encoder(tmp_path / family, family)
    study = load_study(str(study_file(models=[{"name": "m", "folder": str(folder)}], finetune=settings(steps=3))))
    storage = Storage(tmp_path / "runs")
    warm = prepared(study, storage)
    trials = [pick(study, p, t) for p in ("baseline", "prompted") for t in ("copa", "cb")]
    first = [finetune(trial, warm) for trial in trials]
    again = [finetune(trial, warm) for trial in reversed(trials)][::-1]
    cold = [finetune(trial, WarmState(study, storage, ALONE)) for trial in trials]
    for one, two, three in zip(first, again, cold, strict=True):
        assert one.predictions == two.predictions == three.predictions
        assert one.columns["score"] == two.columns["score"] == three.columns["score"]
        assert one.columns["train_loss"] == two.columns["train_loss"] == three.columns["train_loss"]


def test_a_module_too_large_to_keep_is_gone_before_the_next_is_made(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.training import warm_state

    monkeypatch.setattr(warm_state, "MODULE_CACHE_BYTES", 1)
    study = load_study(str(study_file(finetune=settings())))
    warm = prepared(study, Storage(tmp_path / "runs"))
    alive: list[int] = []
    build = warm_state.build_trial_model

    def counted(*arguments: Any, **options: Any) -> Any:
        alive.append(sum(isinstance(thing, torch.nn.Linear) for thing in gc.get_objects()))
        return build(*arguments, **options)

    monkeypatch.setattr(warm_state, "build_trial_model", counted)
    gc.collect()
    before = sum(isinstance(thing, torch.nn.Linear) for thing in gc.get_objects())
    gc.disable()  # Which might come by chance.
    try:
        for task in ("copa", "cb", "copa"):
            warm.model(pick(study, "prompted", task), torch.Generator())
    finally:
        gc.enable()
    assert [number - before for number in alive] == [0, 0, 0]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="mapped pages are told by Linux")
@pytest.mark.parametrize("threshold", [0, 2**40])
def test_large_starting_weights_leave_the_table_while_a_trial_trains(
    threshold: int, study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.training import warm_state

    monkeypatch.setattr(warm_state, "UNMAP_BYTES", threshold)
    folder = make_encoder(tmp_path / "large")
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size": 128, "intermediate_size": 2048}
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).save_pretrained(folder)
    file = folder / "model.safetensors"
    study = load_study(str(study_file(models=[{"name": "m", "folder": str(folder)}], finetune=settings())))
    warm = prepared(study, Storage(tmp_path / "runs"))
    warm.model(pick(study, "prompted"), torch.Generator())
    share = resident(str(file)) / file.stat().st_size
    assert share < 0.3 if threshold == 0 else share > 0.7
    # They are there again for the next one.
    weights = warm.starting_weights(pick(study, "prompted")).tensors
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file(file).items())


def test_weights_with_a_configuration_of_their_own_keep_it_in_a_warm_process(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    tuned = make_encoder(tmp_path / "tuned", seed=1)
    config = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.7}))
    base = make_encoder(tmp_path / "base")
    models = [{"name": "m", "folder": str(base), "instructed_folder": str(tuned)}]
    study = load_study(str(study_file(models=models, finetune=settings())))
    storage = Storage(tmp_path / "runs")
    cold = finetune(pick(study, "instructed"), prepared(study, storage))
    warm = prepared(study, storage)
    finetune(pick(study, "prompted"), warm)
    again = finetune(pick(study, "instructed"), warm)
    assert again.columns["train_loss"] == cold.columns["train_loss"]
    assert again.predictions == cold.predictions


VARIANT = {"variants": [{"name": "other", "template": {"label_words": {"copa": ["same", "red"]}}}]}
PROMPTS = {"prompts": {"copa": [{"name": "own"}, {"name": "other", "label_words": ["same", "red"]}]}}


@pytest.mark.parametrize("axis", [VARIANT, PROMPTS])
def test_a_trial_of_a_variant_or_prompt_is_that_of_a_study_declared_so(
    study_file: Callable[..., Path], tmp_path: Path, axis: dict[str, Any]
) -> None:
    """In one warm process, after trials of the same task under the other one."""
    study = load_study(str(study_file(finetune=settings(), **axis)))
    copa = study.task("copa").model_copy(update={"label_words": ("same", "red")})
    plain = study.replaced(variants=(), prompts={}, tasks=(study.task("cb"), copa))
    storage = Storage(tmp_path / "runs")
    warm = prepared(study, storage)
    trials = [t for t in expand(study) if (t.task, t.paradigm, t.train_size, t.seed) == ("copa", "prompted", 8, 0)]
    usual, other = trials
    first = finetune(usual, warm)
    alone = finetune(pick(plain, "prompted"), WarmState(plain, storage, ALONE))
    assert other.trial_id == pick(plain, "prompted").trial_id
    assert finetune(other, warm).predictions == alone.predictions != first.predictions
    assert finetune(usual, warm).predictions == first.predictions
