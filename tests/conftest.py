"""Fixtures of all tests: a cache of their own, a tiny encoder, a study file. No network."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder, make_study
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# On few cores the threads of several processes wait for each other, and waiting takes a whole core. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# While all modules of tests are imported, the collector would go through ever more objects again and again: a third of the time.
gc.disable()

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("unhurried", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

COMMANDS = ("test_run_grid.py", "test_s3.py")
"""Tests of many commands each. Together they take about as long as all others that start Ray."""


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Turns the collector on again. What was imported is never collected, so it need not be looked at either."""
    gc.freeze()
    gc.enable()


class TwoRays(LoadScopeScheduling):
    """What starts Ray goes to two processes, so that at most two Rays run at once; each other file is a piece of work for any.

    xdist's own `loadgroup` does this by names that pytest 9.2 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _piece_of_work(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TwoRays:
    """Gives xdist the order above."""
    return TwoRays(config, log)


def _piece_of_work(nodeid: str) -> str:
    """Returns the name of what must run in one process: one of two halves of the tests that start Ray, else a file."""
    file = nodeid.split("::")[0]
    if not file.startswith("tests/integration/"):
        return file
    return "commands" if file.endswith(COMMANDS) else "cluster"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest pieces of work first, and keeps Ray out of all others."""
    elsewhere = [item.nodeid for item in items if item.get_closest_marker("ray") and not _is_integration(item)]
    assert not elsewhere, f"tests that start Ray belong into tests/integration: {elsewhere}"
    items.sort(key=lambda item: (not _is_integration(item), _piece_of_work(item.nodeid) if _is_integration(item) else ""))


def _is_integration(item: pytest.Item) -> bool:
    return "integration" in item.path.parts


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
