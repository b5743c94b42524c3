"""There is always a folder for what can be made again, whatever HOME is."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from xlmr_sweep.study import user_cache as module
from xlmr_sweep.study.user_cache import user_cache


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    module.temporary_home.cache_clear()
    yield
    module.temporary_home.cache_clear()


def nobody(uid: int) -> None:
    raise KeyError(uid)


def test_the_usual_places_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me").mkdir()
    assert user_cache() == tmp_path / "me" / ".cache" / "xlmr_sweep"
    monkeypatch.setenv("XDG_CACHE_HOME", "/named")
    assert user_cache() == Path("/named/xlmr_sweep")


def test_without_a_home_it_is_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    own = tmp_path / f"xlmr_sweep-{os.getuid()}"
    assert user_cache() == own / ".cache" / "xlmr_sweep"
    assert own.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HOME=/ of a user who is not root."""
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (Path("/"), Path("/.cache")))
    assert user_cache() == tmp_path / f"xlmr_sweep-{os.getuid()}" / ".cache" / "xlmr_sweep"


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"xlmr_sweep-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert not user_cache().is_relative_to(tmp_path / f"xlmr_sweep-{os.getuid()}")
    assert user_cache().is_relative_to(tmp_path)
