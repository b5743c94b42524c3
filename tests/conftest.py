"""Fixtures of all tests: a cache of their own, a tiny encoder, a study file. No network."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder, make_study


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`: what starts Ray is the first, so that no two Rays run at once; every other file is one."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A tiny XLM-R in a folder."""
    return make_encoder(tmp_path / "encoder")


@pytest.fixture
def study_file(tmp_path: Path, encoder_folder: Path) -> Callable[..., Path]:
    """Writes a study of the tiny encoder on CB and COPA; keywords replace or add keys of the file."""

    def write(**changes: Any) -> Path:
        return make_study(tmp_path, encoder_folder, **changes)

    return write
