"""A machine's name: one for all its users and processes, another on a machine that shares the boot's id."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xlmr_sweep.storage import machine
from xlmr_sweep.storage.machine import TOKEN, machine_name


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a token."""
    monkeypatch.setattr(machine, "MEMORY", tmp_path)
    return tmp_path


def test_all_who_ask_at_once_get_one_name(memory: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        names = set(pool.map(lambda _: machine_name(), range(64)))
    assert len(names) == 1
    assert [path.name for path in memory.iterdir()] == [TOKEN]
    assert next(iter(names)).endswith((memory / TOKEN).read_text())


def test_the_token_can_be_read_by_other_users_whatever_the_umask(memory: Path) -> None:
    before = os.umask(0o077)
    try:
        machine_name()
    finally:
        os.umask(before)
    assert (memory / TOKEN).stat().st_mode & 0o777 == 0o444


def test_processes_of_one_machine_have_one_name() -> None:
    code = "from xlmr_sweep.storage.machine import machine_name; print(machine_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == machine_name()


def test_a_machine_with_another_token_has_another_name(memory: Path) -> None:
    first = machine_name()
    (memory / TOKEN).unlink()
    assert machine_name() != first


@pytest.mark.parametrize("kind", ["link", "folder", "other text"])
def test_what_is_no_token_is_not_believed(memory: Path, kind: str) -> None:
    (memory / "secret").write_text("0" * 32)
    if kind == "link":
        (memory / TOKEN).symlink_to(memory / "secret")
    elif kind == "folder":
        (memory / TOKEN).mkdir()
    else:
        (memory / TOKEN).write_text("../x")
    assert machine_name() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_where_no_token_can_be_kept_the_boot_alone_is_the_name(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "link", full)
    assert machine_name() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert list(memory.iterdir()) == []
