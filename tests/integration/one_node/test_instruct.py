"""Instruction tuning as real Ray Train jobs on two gloo ranks: weights, manifest, and a kill in the middle."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import held_job
import pytest
import torch
from builders import make_encoder
from patience import wait_for
from warm_starts import forks

from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.errors import DivergedError, StudyError
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.export import weights_hash
from xlmr_sweep.storage.artifacts import save_request_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.spec import Study

pytestmark = [pytest.mark.ray, pytest.mark.ranks, pytest.mark.slow]

WORDS = ["User", ":", "Assistant", "is", "the", "sky", "sea", "grass", "blue", "green", "red", "?", "yes", "no"]
NUM_STEPS = 30
CHECKPOINT_EVERY = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_encoder(folder / "model", words=WORDS)
    things, colours = ("sky", "sea", "grass"), ("blue", "green", "red")
    rows = [
        {"inputs": f"is the {things[i % 3]} {colours[i // 3 % 3]} ? " * (1 + i % 5), "targets": "yes" if i % 2 else "no"}
        for i in range(200)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study_of(inputs: Path, **recipe: Any) -> Study:
    return Study.model_validate(
        {
            "name": "s",
            "models": [{"name": "m", "folder": inputs / "model", "instruct_micro_batch": 1, "instruct_ranks": 2}],
            "sizes": [8],
            "seeds": [0],
            "instructions": {"source": "folder", "folder": inputs / "rows.jsonl"},
            "instruct": {
                "epochs": 50,
                "max_steps": NUM_STEPS,
                "global_batch_size": 16,
                "max_length": 64,
                "learning_rate": 3e-3,
                "checkpoint_every": CHECKPOINT_EVERY,
                **recipe,
            },
        }
    )


def instruct(study: Study, storage: Storage, num_ranks: int = 2) -> dict[str, Any]:
    from xlmr_sweep.cluster.instruct_job import run_instruct

    prepare_mixture(study, storage)
    return run_instruct(study, "m", storage, num_ranks=num_ranks, use_gpu=False)


@pytest.fixture(scope="module")
def straight(inputs: Path, ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, dict[str, Any]]:
    """A job that nothing disturbs. It is asked for a checkpoint beside its own."""
    study, storage = study_of(inputs, checkpoint_every=12), Storage(tmp_path_factory.mktemp("runs") / "straight")
    storage.write(save_request_file(recipe_folder_name(study, study.model("m"))), b"")
    return storage, instruct(study, storage)


def descendants(root: int) -> dict[int, str]:
    """Returns the command line of every process below one, by id (read from /proc)."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
    parents |= forks()
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: commands[pid] for pid in below - {root} if pid in commands}


def processes(name: str) -> list[int]:
    """Returns this test's own Ray processes of that kind."""
    return [pid for pid, command in descendants(os.getpid()).items() if command.startswith("ray::") and name in command]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def checkpoint_step(study: Study, storage: Storage) -> int:
    """Returns the step of the last checkpoint that Train has taken note of, 0 for none."""
    folder = Path(storage.path(f"train/{recipe_folder_name(study, study.model('m'))}"))
    try:
        noted = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())
    except (OSError, json.JSONDecodeError):
        return 0  # None yet, or half a file.
    return int(noted["latest_checkpoint_result"]["metrics"]["step"])


def test_writes_weights_that_transformers_loads_and_a_whole_manifest(
    inputs: Path, straight: tuple[Storage, dict[str, Any]]
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    storage, manifest = straight
    study = study_of(inputs)
    name = recipe_folder_name(study, study.model("m"))
    folder = Path(storage.path(f"instruct/{name}"))
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert weights_hash(folder) == manifest["weights"]
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert AutoTokenizer.from_pretrained(folder).mask_token == "<mask>"
    assert manifest["steps"] == NUM_STEPS
    assert len(manifest["loss_curve"]) == NUM_STEPS
    assert manifest["loss_curve"][-1][1] < manifest["loss_curve"][0][1] - 0.4
    assert manifest["num_ranks"] == 2
    assert manifest["share_of_peak"] is None, "no peak of a CPU is known"
    assert set(manifest["waited_s"]) == {"data", "checkpoint", "scoring", "host"}
    assert 0 < manifest["waited_s"]["checkpoint"] < manifest["wall_time_s"]
    assert manifest["checkpoints"] >= 2
    assert manifest["shares"]["padding"] == 0, "on CPUs rows of this family lie end to end"
    assert manifest["shares"]["data"] == pytest.approx(manifest["waited_s"]["data"] / manifest["wall_time_s"])
    assert manifest["shares"]["checkpoint"] > 0
    assert (manifest["device"], manifest["num_gpus"]) == ("cpu", 0)
    assert manifest["data"] == prepare_mixture(study, storage)["fingerprint"]
    # A row has 15 tokens in its user part on average, one in its target, and six of the template.
    assert manifest["masked_tokens"] / manifest["tokens"] == pytest.approx((0.15 * 15 + 1) / 22, rel=0.05)
    log = storage.read(f"logs/instruct-{name}.log").decode()
    # What `auto` is depends on the machine's CPU.
    precision = resolve_precision("auto", torch.device("cpu"))
    assert manifest["precision"] == precision
    assert f"2 ranks on cpu, {precision}, 30 steps" in log
    assert "saved after step 10, as asked" in log
    assert "tokens/s" in log
    assert any("tfevents" in event for event in storage.names(f"tracking/tensorboard/{name}"))
    assert not storage.exists(save_request_file(name))
    assert not storage.exists(f"train/{name}")


def test_leaves_no_process_of_train_behind(straight: tuple[Storage, dict[str, Any]]) -> None:
    names = ("PlacementGroupCleaner", "TrainController", "RayTrainWorker", "SynchronizationActor", "DatasetManager", "Preemption")
    wait_for(lambda: not any(processes(name) for name in names))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_finished_job_is_not_started_again(
    inputs: Path, straight: tuple[Storage, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlmr_sweep.cluster.instruct_job.LeanTrainer", None)
    storage, manifest = straight
    assert instruct(study_of(inputs), storage) == manifest


def test_a_job_whose_rank_is_killed_at_any_step_ends_with_the_same_bits(
    inputs: Path, straight: tuple[Storage, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`test_s3.py` does the same with a driver."""
    from xlmr_sweep.cluster import instruct_job

    study, storage = study_of(inputs), Storage(tmp_path / "runs")
    # At the step of a checkpoint, or at any step between two.
    step = CHECKPOINT_EVERY + random.SystemRandom().randrange(CHECKPOINT_EVERY)
    told = f"killed at step {step}"
    (tmp_path / f"hold-{step}").touch()
    monkeypatch.setattr(instruct_job, "instruction_rank", held_job.held_work(tmp_path))

    def kill_a_rank() -> int:
        wait_for(lambda: (tmp_path / "waits").exists() and checkpoint_step(study, storage) == CHECKPOINT_EVERY)
        victim, _ = processes("RayTrainWorker")
        os.kill(victim, signal.SIGKILL)
        # The other rank goes on and misses its neighbour.
        (tmp_path / f"hold-{step}").unlink()
        return victim

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill_a_rank)
        manifest = instruct(study, storage)
    assert not is_alive(killed.result()), told
    folder = f"instruct/{recipe_folder_name(study, study.model('m'))}"
    log = storage.read(f"logs/{folder.replace('/', '-')}.log").decode()
    assert re.findall(r"goes on after step (\d+)", log) == [str(CHECKPOINT_EVERY)], told
    for column in ("weights", "loss_curve", "tokens"):
        assert manifest[column] == straight[1][column], told


def test_diverged_job_names_the_step_and_is_not_tried_again(inputs: Path, ray_here: None, tmp_path: Path) -> None:
    study, storage = study_of(inputs, learning_rate=1e38, clip=1e38), Storage(tmp_path / "runs")
    with pytest.raises(DivergedError, match=r"step \d+: loss nan"):
        instruct(study, storage, num_ranks=1)
    folder = f"instruct/{recipe_folder_name(study, study.model('m'))}"
    assert not storage.exists(f"{folder}/manifest.json")
    log = storage.read(f"logs/{folder.replace('/', '-')}.log").decode()
    assert log.count("1 ranks on cpu") == 1
    assert "DivergedError" in log


def test_missing_mixture_is_said_before_anything_starts(inputs: Path, tmp_path: Path) -> None:
    from xlmr_sweep.cluster.instruct_job import run_instruct

    with pytest.raises(StudyError, match="the mixture is not prepared"):
        run_instruct(study_of(inputs), "m", Storage(tmp_path), num_ranks=2, use_gpu=False)
