"""A trial's log holds all output of every attempt, wherever the storage is and however the process ends."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from xlmr_sweep.cluster.failures import attempt_line
from xlmr_sweep.cluster.trial_log import keep_log, log_name, move_left_log, next_attempt, trial_log
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial

TRIAL = Trial("base", "prompted", "cb", 8, 0, "abc")


def log_start(attempt: int) -> None:
    logging.getLogger("xlmr_sweep.trial").info(attempt_line(attempt, TRIAL, 0, f"run-{attempt}"))


@pytest.mark.parametrize("location", ["local", "fsspec"])
def test_a_log_holds_messages_warnings_and_all_output_of_every_attempt(tmp_path: Path, location: str) -> None:
    storage = Storage(tmp_path if location == "local" else f"local://{tmp_path}")
    for attempt in (1, 2):
        with trial_log(storage, TRIAL):
            log_start(attempt)
            logging.getLogger("py.warnings").warning("something odd")
            os.system("echo from a child")
            os.write(2, b"native\n")
    os.write(1, b"")
    text = (tmp_path / log_name(TRIAL)).read_text()
    for word in ("base/prompted/cb/n=8/seed=0 on", "something odd", "from a child", "native"):
        assert text.count(word) == 2, word
    assert next_attempt(storage, TRIAL) == 3


def test_a_storage_that_cannot_be_written_costs_the_log_not_the_trial(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with trial_log(Storage(tmp_path), TRIAL):
        os.write(1, b"words\n")
        (tmp_path / "logs").unlink()
    assert (tmp_path / log_name(TRIAL)).read_text() == "words\n"


def test_an_attempt_is_in_a_storage_on_no_local_disk_before_it_ends_and_once(tmp_path: Path) -> None:
    storage = Storage(f"local://{tmp_path}")
    with trial_log(storage, TRIAL):
        log_start(1)
        os.write(2, b"first\n")
    with trial_log(storage, TRIAL) as path:
        log_start(2)
        assert keep_log(storage, TRIAL, path)
        assert next_attempt(storage, TRIAL) == 3
        os.write(2, b"second\n")
        # As of a process that is killed now.
        move_left_log(storage, TRIAL, os.getpid())
        assert not path.exists()
    text = (tmp_path / log_name(TRIAL)).read_text()
    assert [text.count(word) for word in ("attempt 1: ", "first", "attempt 2: ", "second")] == [1, 1, 1, 1]
    assert text.index("first") < text.index("attempt 2: ")
    move_left_log(storage, TRIAL, os.getpid())
    assert (tmp_path / log_name(TRIAL)).read_text() == text


def test_a_log_whose_earlier_attempts_cannot_be_read_is_not_written_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"local://{tmp_path}")
    with trial_log(storage, TRIAL):
        log_start(1)
    before = (tmp_path / log_name(TRIAL)).read_text()

    def fail(self: Storage, name: str) -> bytes:
        raise OSError("unreachable")

    with trial_log(storage, TRIAL) as path, monkeypatch.context() as away:
        away.setattr(Storage, "_read", fail)
        os.write(2, b"second\n")
        assert not keep_log(storage, TRIAL, path)
        assert (tmp_path / log_name(TRIAL)).read_text() == before
    assert (tmp_path / log_name(TRIAL)).read_text() == before + "second\n"
