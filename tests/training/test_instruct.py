"""Instruction tuning on one rank in this process: what it writes, held-out rows, and the check of what is written."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder

from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.storage.artifacts import instruct_folder, job_log_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name, recipe_id
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training import instruct as module
from xlmr_sweep.training.instruct import RankContext, train_rank

WORDS = ["User", ":", "Assistant", "is", "the", "sky", "sea", "grass", "blue", "green", "red", "?", "yes", "no"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_encoder(folder / "model", words=WORDS)
    rows = [
        {"inputs": f"is the sky {('blue', 'green', 'red')[i % 3]} ?", "targets": "yes" if i % 3 else "no"} for i in range(120)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study_of(inputs: Path, **recipe: Any) -> Study:
    told = {"max_steps": 12, "epochs": 5, "global_batch_size": 8, "max_length": 32, "precision": "fp32", "learning_rate": 3e-3}
    return Study.model_validate(
        {
            "name": "s",
            "models": [{"name": "m", "folder": inputs / "model"}],
            "sizes": [8],
            "seeds": [0],
            "instructions": {"source": "folder", "folder": inputs / "rows.jsonl"},
            "instruct": {**told, **recipe},
        }
    )


def train(study: Study, folder: Path, tell: Callable[..., None] = lambda step, numbers: None, resume: Path | None = None) -> Any:
    """Runs the job. Checkpoints go to `folder`/kept at once."""
    storage = Storage(folder / "runs")
    prepare_mixture(study, storage)

    def keep(step: int, write: Callable[[Path], None], told: Callable[[bool], None]) -> None:
        write(folder / "kept" / str(step))
        told(True)

    checkpoint = None if resume is None else nullcontext(str(resume))
    config = {"study": study.model_dump(mode="json"), "model": "m", "storage": storage.uri, "use_gpu": False}
    refusal = train_rank(config, RankContext(0, 1, checkpoint, keep, tell))
    return refusal or storage.read_json(f"{instruct_folder(study, study.model('m'))}/manifest.json")


def test_held_out_rows_are_scored_now_and_then_and_kept_over_a_restart(inputs: Path, tmp_path: Path) -> None:
    told: list[tuple[int, dict[str, float]]] = []
    study = study_of(inputs, held_out=20, held_out_every=5, checkpoint_every=6)
    manifest = train(study, tmp_path, lambda step, numbers: told.append((step, dict(numbers))))
    assert [step for step, _, _ in manifest["held_out"]] == [5, 10, 12]
    for _, loss, accuracy in manifest["held_out"]:
        assert loss > 0
        assert 0 <= accuracy <= 1
    # What is asked can be learned: most targets are "yes".
    assert manifest["held_out"][-1][1] < manifest["held_out"][0][1]
    scored = [(step, n["held_out_loss"], n["held_out_accuracy"]) for step, n in told if "held_out_loss" in n]
    assert [list(point) for point in scored] == manifest["held_out"]
    assert 0 <= manifest["export_apart"] < 1e-3
    # The data has only three rows, again and again. Nobody is told the accuracy without that.
    assert manifest["held_out_seen"] == 20
    log = (tmp_path / "runs" / job_log_file(recipe_folder_name(study, study.model("m")))).read_text()
    assert log.count("; 20 of 20 are equal to rows that are trained on") == 3
    again = train(study, tmp_path / "again", resume=tmp_path / "kept" / "6")
    for column in ("weights", "loss_curve", "held_out"):
        assert again[column] == manifest[column]


def test_what_is_runtime_changes_no_recipe_and_held_out_rows_do(inputs: Path) -> None:
    def ids(**recipe: Any) -> str:
        study = study_of(inputs, **recipe)
        return recipe_id(study, study.model("m"))

    runtime = {"checkpoint_every": 3, "checkpoints_kept": 4, "stop_at_spike": False, "held_out_every": 9, "held_out": 0}
    runtime |= {"zero_shot_every": 5}
    assert ids() == ids(**runtime)
    assert ids() == ids(loss_on="both")
    assert len({ids(), ids(held_out=1), ids(loss_on="inputs"), ids(loss_on="targets")}) == 4


@pytest.mark.parametrize("part", ["both", "inputs", "targets"])
def test_the_losses_on_inputs_and_on_targets_are_told_apart_whatever_the_loss_counts(
    part: str, inputs: Path, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    study = study_of(inputs, loss_on=part, mask_rate=0.4, held_out=20, held_out_every=12)
    manifest = train(study, tmp_path, lambda step, numbers: told.append(dict(numbers)))
    *_, last = (numbers for numbers in told if "loss" in numbers)
    (scored,) = (numbers for numbers in told if "held_out_loss" in numbers)
    known = {name for name in ("inputs", "targets") if last[f"loss_{name}"] is not None}
    assert known == ({"inputs", "targets"} if part == "both" else {part})
    if part != "both":
        assert last[f"loss_{part}"] == pytest.approx(last["loss"])
    # Of held-out rows both are always told, so a part that is not trained on can be followed.
    low, high = sorted((scored["held_out_loss_inputs"], scored["held_out_loss_targets"]))
    assert low < scored["held_out_loss"] < high
    log = Storage(tmp_path / "runs").read(f"logs/instruct-{recipe_folder_name(study, study.model('m'))}.log").decode()
    assert f"(inputs {scored['held_out_loss_inputs']:.4f}, targets {scored['held_out_loss_targets']:.4f})" in log
    # Two of the five words of each user part are masked, and the one of its target.
    assert manifest["masked_tokens"] == 12 * 8 * {"both": 3, "inputs": 2, "targets": 1}[part]


def test_a_loss_that_counts_nothing_is_refused(inputs: Path) -> None:
    with pytest.raises(ValueError, match="loss_on is inputs, but with mask_rate 0 no token of them is masked"):
        study_of(inputs, loss_on="inputs", mask_rate=0)


def test_more_held_out_rows_than_there_are_is_one_line(inputs: Path, tmp_path: Path) -> None:
    refusal = train(study_of(inputs, held_out=120), tmp_path)
    assert refusal == {
        "error_class": "StudyError",
        "message": "instruct.held_out: 120, but the mixture has 120 rows; none is left to train on",
    }


def test_a_model_that_does_not_load_is_one_line(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs, tmp_path / "inputs")
    weights = tmp_path / "inputs" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refusal = train(study_of(tmp_path / "inputs"), tmp_path)
    assert refusal["error_class"] == "StudyError"
    assert refusal["message"].startswith("model m: ")
    assert "\n" not in refusal["message"]


def test_a_disk_that_is_full_at_the_export_is_one_line_and_the_next_run_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(inputs, checkpoint_every=6).replaced(cluster={"storage_patience_s": 0.1})
    straight = train(study, tmp_path / "straight")
    folder, copied = instruct_folder(study, study.model("m")), shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if folder in str(target) and target.suffix == ".safetensors":
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        copied(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        refusal = train(study, tmp_path / "full")
    assert refusal["error_class"] == "StorageError"
    assert "No space left on device" in refusal["message"]
    assert "\n" not in refusal["message"]
    assert not Storage(tmp_path / "full" / "runs").exists(folder), "half an export keeps no room"
    again = train(study, tmp_path / "full", resume=tmp_path / "full" / "kept" / "6")
    for column in ("weights", "loss_curve"):
        assert again[column] == straight[column]


def test_an_export_that_computes_something_else_is_not_published(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = module.write_weights

    def spoiled(config: str, weights: Any, tokenizer: Any, folder: Path) -> str:
        name = "lm_head.dense.weight"
        return exported(config, {**weights, name: weights[name].t().clone()}, tokenizer, folder)

    monkeypatch.setattr(module, "write_weights", spoiled)
    study = study_of(inputs, max_steps=2)
    refusal = train(study, tmp_path)
    assert refusal["error_class"] == "StudyError"
    assert "compute other logits than the trained model" in refusal["message"]
    assert "\n" not in refusal["message"]
    assert not Storage(tmp_path / "runs").exists(f"{instruct_folder(study, study.model('m'))}/manifest.json")
