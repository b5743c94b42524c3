"""Checkpoints of a job: training goes on while one is written, one at a time, and none is of a high loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_cuda import FakeCuda
from patience import wait_for
from tiny_ranks import Rows, run_of, tiny

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.artifacts import save_request_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.training import loss_watch
from xlmr_sweep.training.checkpoint import load_checkpoint
from xlmr_sweep.training.host_copies import HostCopies
from xlmr_sweep.training.job_checkpoints import JobCheckpoints
from xlmr_sweep.training.mlm import Run


class Held:
    """Keeps what it is given, and writes it when the test says so."""

    def __init__(self) -> None:
        self.given: list[tuple[int, Callable[[Path], None], Callable[[bool], None]]] = []

    def __call__(self, step: int, write: Callable[[Path], None], told: Callable[[bool], None]) -> None:
        self.given.append((step, write, told))


def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_written_is_that_step(tmp_path: Path) -> None:
    held, said = Held(), list[str]()
    checkpoints = JobCheckpoints(Storage(tmp_path), "m-1", World(), 4, held, said.append)
    run = run_of(tiny(), rows=Rows(num_steps=7, total_rows=84))
    at_4 = {}

    def look(run: Run) -> None:
        checkpoints.after_step(run)
        if run.progress.step == 4:
            at_4.update({name: p.detach().clone() for name, p in run.parameters.items()})

    run.train(look)
    ((step, write, told),) = held.given
    assert (step, run.progress.step) == (4, 7)
    assert "no checkpoint" not in str(said)
    write(tmp_path / "written")
    told(True)
    again = run_of(tiny(), rows=Rows(num_steps=7, total_rows=84))
    load_checkpoint(again, tmp_path / "written", "m-1")
    assert again.progress.step == 4
    # What is saved holds neither the checkpoint itself nor the time that it took.
    assert (run.progress.checkpoints, again.progress.checkpoints) == (1, 0)
    assert run.progress.waited_s["checkpoint"] > again.progress.waited_s["checkpoint"] == 0
    assert all(torch.equal(p, at_4[name]) for name, p in again.parameters.items())
    assert checkpoints.kept() == f"the checkpoint of step 4 is kept in {tmp_path}/train/m-1, and the same command goes on from it"


def test_a_request_is_answered_when_the_checkpoint_is_kept(tmp_path: Path) -> None:
    held, storage = Held(), Storage(tmp_path)
    storage.write(save_request_file("m-1"), b"")
    checkpoints = JobCheckpoints(storage, "m-1", World(), 1000, held, lambda line: None)
    run_of(tiny(), rows=Rows(num_steps=12, total_rows=144)).train(checkpoints.after_step)
    ((step, _, told),) = held.given
    assert step == 10
    assert storage.exists(save_request_file("m-1"))
    told(True)
    assert not storage.exists(save_request_file("m-1"))


def test_no_checkpoint_is_of_a_high_loss_and_the_line_names_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_watch, "USUAL_STEPS", 4)
    monkeypatch.setattr(loss_watch, "SPIKE_STEPS", 3)
    steps = []

    def keep(step: int, write: Callable[[Path], None], told: Callable[[bool], None]) -> None:
        steps.append(step)
        told(True)

    checkpoints = JobCheckpoints(Storage(tmp_path), "m-1", World(), 1, keep, lambda line: None)
    model = tiny()

    def spoil(run: Run) -> None:
        checkpoints.after_step(run)
        if run.progress.step == 7:
            with torch.no_grad():
                model.lm_head.bias.mul_(0).add_(torch.arange(83.0))

    run = run_of(model, rows=Rows(num_steps=20, total_rows=240), stops_at_spike=True, learning_rate=1e-9)
    with pytest.raises(DivergedError, match="step 10: the loss spiked"):
        run.train(spoil)
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert "the checkpoint of step 7 is kept" in checkpoints.kept()


def test_only_one_checkpoint_is_in_memory(tmp_path: Path) -> None:
    import threading

    held = Held()
    checkpoints = JobCheckpoints(Storage(tmp_path), "m-1", World(), 2, held, lambda line: None)
    run = run_of(tiny(), rows=Rows(num_steps=6, total_rows=72))
    training = threading.Thread(target=run.train, args=(checkpoints.after_step,))
    training.start()
    wait_for(lambda: run.progress.step == 4)
    assert [step for step, _, _ in held.given] == [2]
    held.given[0][2](False)
    wait_for(lambda: len(held.given) == 2)
    held.given[1][2](True)
    training.join()
    assert [step for step, _, _ in held.given] == [2, 4]
    assert "of step 4" in checkpoints.kept()


@pytest.mark.parametrize("has_room", [True, False])
def test_on_a_gpu_copies_are_of_the_weights_before_the_next_update(has_room: bool) -> None:
    cuda = FakeCuda()
    weights = {"a": torch.arange(6.0), "b": torch.ones(2)}
    cuda.free_bytes = 10**6 if has_room else 0
    copies = HostCopies(weights, torch.device("cuda"), cuda)
    copies.hold()
    copies.hold()
    # Without room the update waits on the device, once.
    assert cuda.log.count("wait") == (0 if has_room else 1)
    assert cuda.finished == 0, "the host waited"
    weights["a"].add_(1)
    arrived = copies.arrived()
    assert cuda.finished == cuda.queued == 1
    assert torch.equal(arrived["a"], torch.arange(6.0))
