"""Instruction data prepared on Ray Data: the bytes of one process, and errors in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from builders import make_encoder

from xlmr_sweep.data import instruction_source, mixture
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study

pytestmark = pytest.mark.ray

WORDS = ["User", ":", "Assistant", "is", "the", "sky", "blue", "?", "yes", "no"]


def test_the_bytes_are_those_of_one_process(ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlmr_sweep.cluster.ray_data import RayDataRunner

    monkeypatch.setattr(instruction_source, "PART_BYTES", (5000, 5000))
    model = make_encoder(tmp_path / "model", words=WORDS)
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = [{"inputs": f"is the sky {'blue ' * (i % 9)}?", "targets": "yes" if i % 2 else "no no no no"} for i in range(600)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "a.jsonl").write_bytes(data)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(data))
    plan = {"name": "s", "models": [{"name": "m", "folder": model}], "sizes": [8], "seeds": [0]}
    study = Study.model_validate({**plan, "instructions": {"source": "folder", "folder": folder}})
    here = prepare_mixture(study, Storage(tmp_path / "here"))
    monkeypatch.setattr(mixture, "HERE_BYTES", 0)
    there = prepare_mixture(study, Storage(tmp_path / "there"), run_parts=RayDataRunner("local"))
    assert here["counts"]["read"] == 1200
    assert {**here, "created_at": ""} == {**there, "created_at": ""}
    names = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.*") if path.suffix != ".json")
    assert len(names) == 4
    assert [(tmp_path / "here" / name).read_bytes() for name in names] == [
        (tmp_path / "there" / name).read_bytes() for name in names
    ]
    # A reader's error is not wrapped, and does not fill the terminal.
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(StudyError, match=r"b.jsonl.gz: line \d+: cannot be read: .*; copy the file again") as error:
        prepare_mixture(study, Storage(tmp_path / "there"), run_parts=RayDataRunner("local"))
    assert "\n" not in str(error.value)
