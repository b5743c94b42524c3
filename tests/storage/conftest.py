"""A study, and an empty storage for it at a location of each kind. Tests that need another one make their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


@pytest.fixture(params=["path", "uri", "fsspec"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    folder = tmp_path / "my runs"
    location = {"path": str(folder), "uri": f"file://{tmp_path}/my%20runs", "fsspec": f"memory://{tmp_path}/runs"}
    return Storage(location[request.param])
