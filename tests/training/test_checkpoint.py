"""A run that stops and goes on ends with the same bits, and with other ranks with the same weights."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks
from tiny_ranks import Rows, run_of, tiny, train_on_ranks

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.job_checkpoints import JobCheckpoints
from xlmr_sweep.training.mlm import Run


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_and_resumed_run_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    straight = tiny(dropout=0.1)
    whole = run_of(straight, clip=0.3).train()

    class Stopped(Exception):
        pass

    def save_and_stop(run: Run) -> None:
        if run.progress.step == stop:
            save_checkpoint(run, tmp_path)
            raise Stopped

    with pytest.raises(Stopped):
        run_of(tiny(dropout=0.1), clip=0.3).train(save_and_stop)
    torch.manual_seed(99)
    resumed = tiny(dropout=0.1)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.normal_()
    rows = Rows()
    run = run_of(resumed, clip=0.3, rows=rows)
    load_checkpoint(run, tmp_path)
    progress = run.train()
    assert {step for step, _ in rows.seen} == set(range(stop, 6))
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, dict(straight.named_parameters())[name]), name
    assert progress.loss_curve == whole.loss_curve
    assert (progress.tokens, progress.masked_tokens) == (whole.tokens, whole.masked_tokens)


def saved(folder: Path) -> Path:
    run_of(tiny(), rows=Rows(num_steps=1)).train(lambda run: save_checkpoint(run, folder, "m-1"))
    return folder


def refusal(folder: Path, made_by: str = "m-1", **sizes: int) -> str:
    with pytest.raises(StudyError) as caught:
        load_checkpoint(run_of(tiny(**sizes)), folder, made_by)
    said = str(caught.value)
    assert said.startswith(f"{folder}: ")
    assert "\n" not in said
    return said


def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    assert "a checkpoint of another model" in refusal(folder, hidden_size=32)
    assert "a checkpoint of another study or recipe (m-1, not m-2)" in refusal(folder, "m-2")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({"world_size": 1, **{k: v for k, v in state.items() if k != "format"}}))
    assert f"another version of xlmr_sweep; end the job with that version, or delete {tmp_path}" in refusal(folder)
    (folder / "state.json").unlink()
    assert "not whole" in refusal(folder)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    file = folder / "rank-00000.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-100], whole[:4], b""):
        file.write_bytes(damaged)
        assert "the checkpoint is damaged" in refusal(folder)
    file.unlink()
    assert "the checkpoint is damaged" in refusal(folder)


def test_a_full_disk_is_an_error_of_the_disk_and_leaves_no_state(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The tensors are larger, the state is not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            saved(tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "c" / "state.json").exists()


def _killed(rank: int, size: int, folder: Path, kill_at: int) -> None:
    """Trains, saves every two steps in a thread, and kills itself after a step, whatever that thread is doing."""

    def keep(step: int, write: Callable[[Path], None], told: Callable[[bool], None]) -> None:
        def work() -> None:
            write(folder / f"step-{step}")
            told(True)

        threading.Thread(target=work).start()

    checkpoints = JobCheckpoints(Storage(folder), "m-1", World(), 2, keep, lambda line: None)

    def then_die(run: Run) -> None:
        checkpoints.after_step(run)
        if run.progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    run_of(tiny(dropout=0.1), clip=0.3, rows=Rows(num_steps=12, total_rows=144)).train(then_die)


@pytest.mark.parametrize("part", [range(1, 5), range(5, 9), range(9, 12)])
def test_killed_at_a_random_step_it_ends_with_the_same_loss_curve_and_weights(part: range, tmp_path: Path) -> None:
    kill_at = random.SystemRandom().choice(part)
    told = f"killed after step {kill_at}"
    run_ranks(_killed, 1, tmp_path, kill_at, exit_code=-signal.SIGKILL)
    kept = [path for path in tmp_path.glob("step-*") if (path / "state.json").exists()]
    straight, resumed = tiny(dropout=0.1), tiny(dropout=0.1)
    whole = run_of(straight, clip=0.3, rows=Rows(num_steps=12, total_rows=144)).train()
    run = run_of(resumed, clip=0.3, rows=Rows(num_steps=12, total_rows=144))
    # Killed early, it may have kept none and begins anew. A checkpoint waits until the one before is written.
    assert len(kept) >= kill_at // 2 - 1, told
    if kept:
        load_checkpoint(run, max(kept, key=lambda path: int(path.name[5:])), "m-1")
    assert run.progress.step <= kill_at, told
    assert run.train().loss_curve == whole.loss_curve, told
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, dict(straight.named_parameters())[name]), f"{name}, {told}"


@pytest.mark.ranks
@pytest.mark.slow
def test_checkpoint_of_two_ranks_goes_on_bit_for_bit(tmp_path: Path) -> None:
    weights, counts = train_on_ranks(2, tmp_path, dropout=0.1)
    (tmp_path / "saved-2").rename(tmp_path / "resume")
    again, again_counts = train_on_ranks(2, tmp_path, dropout=0.1)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert again_counts["curve"] == counts["curve"]


@pytest.mark.ranks
@pytest.mark.slow
def test_checkpoint_is_resharded_for_another_number_of_ranks(tmp_path: Path) -> None:
    weights, counts = train_on_ranks(2, tmp_path)
    (tmp_path / "saved-2").rename(tmp_path / "resume")
    three, three_counts = train_on_ranks(3, tmp_path)
    model = tiny()
    run = run_of(model, clip=0.5)
    load_checkpoint(run, tmp_path / "resume")
    assert run.progress.step == 3
    run.train()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(three[name], weights[name], rtol=1e-4, atol=3e-6, msg=name)
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-4, atol=3e-6, msg=name)
    assert three_counts["curve"][:3] == counts["curve"][:3]
