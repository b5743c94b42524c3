"""What tests of instruction data share: a tiny model, and parts so small that few rows are many parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import make_encoder
from instruction_files import WORDS

from xlmr_sweep.data import instruction_source, mixture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("model"), words=WORDS)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_source, "PART_BYTES", (700, 700))
    monkeypatch.setattr(mixture, "HERE_BYTES", 0)
