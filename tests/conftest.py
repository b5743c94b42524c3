"""Fixtures of all tests: a cache of their own, a tiny encoder, a study file. No network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder, make_study


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
