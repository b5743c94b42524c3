"""Tasks that an instruction job scores zero-shot now and then: the scores of trials, and no bit of the job changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from builders import make_encoder, make_study
from rank_processes import run_ranks
from small_trials import ALONE, prepared, settings
from transformers import AutoModelForMaskedLM

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import base_source, instructed_source
from xlmr_sweep.storage.artifacts import instruct_folder, job_log_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.instruct import RankContext, train_rank
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.zero_shot import asked_tasks, score_zero_shot, zero_shot_logits

PROMPTS = {"copa": [{"name": "own"}, {"name": "short", "prompt": "{premise} {choice1} {choice2}"}]}


def study_of(folder: Path, family: str = "xlm-roberta", *, prompts: dict[str, Any] = PROMPTS, **recipe: Any) -> Study:
    """A study of CB, and of COPA in two prompts. Its model answers with some confidence."""
    told = {"max_steps": 4, "global_batch_size": 16, "max_length": 64, "precision": "fp32", "learning_rate": 3e-3}
    model = folder / family
    if not model.exists():
        make_encoder(model, family, std=0.2)
    calibrated = {"calibrate": True, "content_free": ["N/A", ""]}
    path = make_study(
        folder, model, sizes=[0], finetune=settings(), zero_shot=calibrated, prompts=prompts, instruct={**told, **recipe}
    )
    return load_study(str(path))


def job(study: Study, folder: Path, rank: int = 0, size: int = 1, resume: Path | None = None, tell: Any = None) -> Any:
    """Runs one rank of the job on prepared data; rank 0 returns the manifest. Checkpoints go to `folder`/kept at once."""

    def keep(step: int, write: Callable[[Path], None], told: Callable[[bool], None]) -> None:
        write(folder / "kept" / str(step))
        told(True)

    storage = Storage(folder / "runs")
    config = {"study": study.model_dump(mode="json"), "model": "tiny", "storage": storage.uri, "use_gpu": False}
    checkpoint = None if resume is None else nullcontext(str(resume))
    context = RankContext(rank, size, checkpoint, keep, tell or (lambda step, numbers: None))
    assert train_rank(config, context) is None
    return storage.read_json(f"{instruct_folder(study, study.model('tiny'))}/manifest.json")


def prepare(study: Study, folder: Path, without: str = "") -> Storage:
    storage = Storage(folder / "runs")
    prepare_mixture(study, storage)
    for task in study.tasks:
        if task.name != without:
            prepare_task(study, task, storage)
    return storage


def trial_scores(study: Study, storage: Storage) -> dict[str, float]:
    """Scores of the zero-shot trials of the job's weights, by task and prompt."""
    warm = prepared(study, storage)
    trials = [trial for trial in expand(study) if trial.paradigm == "instructed"]
    return {f"{t.task}/{t.prompt}" if t.prompt else t.task: finetune(t, warm).columns["score"] for t in trials}


@pytest.mark.filterwarnings("ignore:.*no fast path")
@pytest.mark.parametrize("family", ["xlm-roberta", "electra"])
def test_the_last_scores_are_those_of_zero_shot_trials_with_the_exported_weights(family: str, tmp_path: Path) -> None:
    study = study_of(tmp_path, family, zero_shot_every=3)
    storage = prepare(study, tmp_path)
    told: list[tuple[int, dict[str, float]]] = []
    manifest = job(study, tmp_path, tell=lambda step, numbers: told.append((step, dict(numbers))))
    assert [step for step, _ in manifest["zero_shot"]] == [3, 4]
    assert manifest["zero_shot"][-1][1] == trial_scores(study, storage)
    names = ("cb", "copa/own", "copa/short")
    assert set(manifest["zero_shot"][0][1]) == set(names)
    shown = [[step, {name: n[f"zero_shot/{name}"] for name in names}] for step, n in told if "zero_shot/cb" in n]
    assert shown == manifest["zero_shot"]
    assert "step 3: zero-shot: cb " in storage.read(job_log_file(recipe_folder_name(study, study.model("tiny")))).decode()

    # A score says little of nine examples, so the logits are compared too.
    source, warm = instructed_source(storage, study, study.model("tiny")), prepared(study, storage)
    root = MaskedLMLoss(AutoModelForMaskedLM.from_pretrained(source.location, dtype=torch.float32)).train()
    asked, missing = asked_tasks(study, storage, load_tokenizer(source), root.encoder.model.config.vocab_size, ALONE)
    assert not missing
    trials = [trial for trial in expand(study) if trial.paradigm == "instructed"]
    for one, trial in zip(asked, trials, strict=True):
        outcome = finetune(trial, warm)
        expected = np.array([outcome.predictions[f"score_{i}"] for i in range(len(one.task.labels))]).T
        found = torch.softmax(zero_shot_logits(root, one, ALONE, "fp32", 60).double(), 1)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert one.labels == outcome.predictions["label"]
    before = torch.random.get_rng_state()
    assert score_zero_shot(root, asked, ALONE, "fp32", 60) == manifest["zero_shot"][-1][1]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert root.training


def test_scoring_changes_no_bit_of_a_job_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    plain, scored = (study_of(tmp_path, zero_shot_every=every, checkpoint_every=2) for every in (0, 1))
    folders = [tmp_path / name for name in ("plain", "scored", "again")]
    for folder in folders:
        prepare(plain, folder)
    manifests = [job(plain, folders[0]), job(scored, folders[1]), job(scored, folders[2], resume=folders[1] / "kept" / "2")]
    for column in ("weights", "loss_curve", "masked_tokens"):
        assert manifests[0][column] == manifests[1][column] == manifests[2][column]
    assert manifests[0]["zero_shot"] == []
    assert [step for step, _ in manifests[1]["zero_shot"]] == [1, 2, 3, 4]
    assert manifests[2]["zero_shot"] == manifests[1]["zero_shot"]
    # A checkpoint of a job that scored nothing, too.
    prepare(plain, tmp_path / "later")
    later = job(scored, tmp_path / "later", resume=folders[0] / "kept" / "2")
    assert later["weights"] == manifests[0]["weights"]
    assert later["zero_shot"] == manifests[1]["zero_shot"][2:]


def test_tasks_without_examples_in_the_storage_are_named_and_left_out(tmp_path: Path) -> None:
    study = study_of(tmp_path, prompts={}, zero_shot_every=9)
    storage = prepare(study, tmp_path, without="cb")
    ((step, scores),) = job(study, tmp_path)["zero_shot"]
    assert (step, set(scores)) == (4, {"copa"})
    log = storage.read(job_log_file(recipe_folder_name(study, study.model("tiny")))).decode()
    assert "not scored zero-shot, because their examples are not in the storage: cb" in log


def test_a_job_of_a_variant_asks_in_all_prompts(tmp_path: Path) -> None:
    study = study_of(tmp_path).replaced(variants=[{"name": "targets-only", "instruct": {"mask_rate": 0.0}}])
    part = study.of_job("tiny@targets-only")
    storage = prepare(part, tmp_path)
    tokenizer = load_tokenizer(base_source(storage, part, part.model("tiny")))
    asked, _ = asked_tasks(part, storage, tokenizer, len(tokenizer), ALONE)
    assert [one.name for one in asked] == ["cb", "copa/own", "copa/short"]
    assert asked[1].task.prompt != asked[2].task.prompt == "{premise} {choice1} {choice2}"


def _rank(rank: int, size: int, folder: Path, study: Study) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    job(study, folder, rank, size)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ranks
@pytest.mark.slow
def test_two_ranks_score_together_what_one_process_scores(tmp_path: Path) -> None:
    study = study_of(tmp_path, zero_shot_every=2)
    storage = prepare(study, tmp_path)
    run_ranks(_rank, 2, tmp_path, study)
    manifest = storage.read_json(f"{instruct_folder(study, study.model('tiny'))}/manifest.json")
    assert [step for step, _ in manifest["zero_shot"]] == [2, 4]
    assert manifest["zero_shot"][-1][1] == trial_scores(study, storage)
