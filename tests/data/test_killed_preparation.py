"""A preparation whose process is killed by SIGKILL at any moment: the same bytes afterwards, and little work lost."""

from __future__ import annotations

import os
import random
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from builders import make_encoder
from instruction_files import WORDS, lines, rows, study_of
from mixture_bytes import backwards, digest
from patience import wait_for
from rank_processes import run_ranks

from xlmr_sweep.data import instruction_source, mixture, mixture_writer
from xlmr_sweep.data.instruction_source import PART_BYTES, part_size
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.part_work import MOST_THREADS, PartDone, PartWork, Runner, run_here
from xlmr_sweep.data.row_files import Segment
from xlmr_sweep.storage.environment import machine_cpus
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study

SMALL_PART, SMALL_SHARD = 700, 40

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

XP3_BYTES = 37 * 10**9
"""English xP3, which the paper's instruction data are made of."""


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(instruction_source, "PART_BYTES", (SMALL_PART, SMALL_PART))
    patch.setattr(mixture_writer, "SHARD_ROWS", SMALL_SHARD)


def _die_at(folder: Path, num_files: int) -> None:
    """Starts a thread that kills this process as soon as so many files of parts and shards are there, whatever it is doing."""

    def kill() -> None:
        wait_for(lambda: len(list(folder.rglob("*.arrow"))) + len(list(folder.rglob("*.parquet"))) >= num_files)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def _prepare_and_die(rank: int, size: int, study: Study, folder: Path, num_files: int) -> None:
    _die_at(folder, num_files)
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        prepare_mixture(study, Storage(folder))
        # Where all is done before the thread looks.
        os.kill(os.getpid(), signal.SIGKILL)


def _command(rank: int, size: int, study: Path, folder: Path, kill_at: int | None) -> None:
    """Runs `prepare_data.py` itself. Notes how many parts it did beside the storage, where it is not killed."""
    done: list[PartDone] = []

    def noted(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        for part in run_here(work, segments):
            done.append(part)
            yield part

    if kill_at is not None:
        _die_at(folder, kill_at)
    sys.argv = ["prepare_data.py", "--study", str(study), "--storage", str(folder)]
    sys.path.insert(0, str(EXPERIMENTS))
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        patch.setattr(mixture, "run_here", noted)
        try:
            runpy.run_path(str(EXPERIMENTS / "prepare_data.py"), run_name="__main__")
        finally:
            folder.with_suffix(".done").write_text(str(len(done)))
            if kill_at is not None:
                # Where all is done before the thread looks.
                os.kill(os.getpid(), signal.SIGKILL)


def parts_of(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("parts/*.arrow")}


@pytest.mark.parametrize("runner", [run_here, backwards])
def test_a_process_that_is_killed_at_a_random_part_loses_only_the_parts_at_work(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(mixture, "HERE_BYTES", 0)
    model = make_encoder(tmp_path / "model", words=WORDS)
    (tmp_path / "rows.jsonl").write_bytes(lines(rows(500)))
    study = study_of(model, tmp_path / "rows.jsonl", drop_duplicates=True)
    prepare_mixture(study, Storage(tmp_path / "whole"))
    num_parts = -(-(tmp_path / "rows.jsonl").stat().st_size // SMALL_PART)
    assert num_parts > 50
    killed, seed = tmp_path / "killed", random.SystemRandom().randrange(num_parts)
    run_ranks(_prepare_and_die, 1, study, killed, seed, exit_code=-signal.SIGKILL)
    there, again = parts_of(killed), list[PartDone]()

    def noted(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        for part in runner(work, segments):
            again.append(part)
            yield part

    prepare_mixture(study, Storage(killed), run_parts=noted)
    assert digest(killed) == digest(tmp_path / "whole"), f"killed at {seed} of {num_parts} files"
    if there:
        assert len(again) == num_parts - len(there), f"killed at {seed} of {num_parts} files"


def test_the_command_that_is_killed_and_given_again_leaves_the_bytes_of_one_that_was_not(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_encoder(tmp_path / "model", words=WORDS)
    (tmp_path / "rows.jsonl").write_bytes(lines(rows(300)))
    study = study_file(
        models=[{"name": "m", "folder": str(model)}], instructions={"source": "folder", "folder": str(tmp_path / "rows.jsonl")}
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_ranks(_command, 1, study, whole, None)
    num_parts = -(-(tmp_path / "rows.jsonl").stat().st_size // SMALL_PART)
    kill_at = random.SystemRandom().randrange(num_parts)
    run_ranks(_command, 1, study, killed, kill_at, exit_code=-signal.SIGKILL)
    told, there = f"killed at {kill_at} of {num_parts} files", parts_of(killed)
    assert len(there) >= kill_at or not there, told
    run_ranks(_command, 1, study, killed, None)
    assert digest(killed) == digest(whole), told
    assert any(name.startswith("data/copa") for name in digest(whole))
    assert int(whole.with_suffix(".done").read_text()) == num_parts
    if there:
        assert int(killed.with_suffix(".done").read_text()) == num_parts - len(there), told


def test_at_the_papers_scale_a_kill_loses_at_most_a_hundredth_of_the_work() -> None:
    """What is lost are the parts at work: one for each thread, or for each process of a cluster."""
    assert PART_BYTES[1] * min(MOST_THREADS, machine_cpus()) <= XP3_BYTES / 100
    # 200,000 rows of 1,100 bytes, and what lies between: two threads.
    assert all(2 * part_size(size) <= size / 100 for size in (200_000 * 1_100, 2**28, 2**30, 2**32, XP3_BYTES))
    assert PART_BYTES[1] * 64 <= XP3_BYTES / 100, "64 processes of Ray Data, all at work"
