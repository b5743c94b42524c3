"""Fixtures of all tests: a cache of their own, a tiny encoder, a study file. No network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import make_encoder, make_instructions, make_superglue


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
        make_superglue(tmp_path / "superglue")
        make_instructions(tmp_path / "instructions.jsonl")
        study = {
            "name": "small",
            "models": [{"name": "tiny", "folder": str(encoder_folder), "instruct_ranks": 2}],
            "tasks": ["cb", "copa"],
            "sizes": [4, 8],
            "seeds": [0, 1],
            "data": {"source": "folder", "folder": "superglue"},
            "instructions": {"source": "folder", "folder": "instructions.jsonl"},
            "instruct": {"max_steps": 3, "global_batch_size": 16, "max_length": 64, "precision": "fp32"},
            "finetune": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32"},
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**study, **changes}))
        return path

    return write
