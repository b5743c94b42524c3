"""The check of an export reads what was written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_ranks import Rows, run_of, tiny

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.training.export_check import check_export, probe_rows, trained_logits


def test_the_check_of_an_export_reads_the_folder_that_was_written(tmp_path: Path) -> None:
    model = tiny()
    root = run_of(model).root
    rows = probe_rows(Rows().rows(0, range(8)))
    assert len(rows) == 2
    expected = trained_logits(root, rows, World(), "fp32")  # type: ignore[arg-type]
    model.save_pretrained(tmp_path / "a")
    assert check_export(tmp_path / "a", rows, expected, "fp32") < 1e-4
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    weights = load_file(tmp_path / "b" / "model.safetensors")
    name = next(name for name in weights if "layer.1" in name and name.endswith("dense.weight"))
    save_file({**weights, name: weights[name] * 1.5}, tmp_path / "b" / "model.safetensors", {"format": "pt"})
    with pytest.raises(StudyError, match="other logits"):
        check_export(tmp_path / "b", rows, expected, "fp32")
    save_file(
        {key: value for key, value in weights.items() if key != name}, tmp_path / "b" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(StudyError, match="lack"):
        check_export(tmp_path / "b", rows, expected, "fp32")
