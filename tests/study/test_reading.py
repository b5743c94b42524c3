"""Where the studies that ship with the project are found."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study import reading


def test_without_a_checkout_the_installed_studies_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "share" / "xlmr_sweep" / "studies"
    folder.mkdir(parents=True)
    text = (reading.studies_folder() / "paper.yaml").read_text()
    (folder / "paper.yaml").write_text(text.replace("name: paper", "name: installed"))
    packages = tmp_path / "lib" / "packages"
    packages.mkdir(parents=True)
    file = metadata.PackagePath("../../share/xlmr_sweep/studies/paper.yaml")
    file.dist = metadata.PathDistribution(packages / "xlmr_sweep.dist-info")
    monkeypatch.setattr(reading, "CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "files", lambda name: [metadata.PackagePath("xlmr_sweep/errors.py"), file])
    assert reading.load_study("paper").name == "installed"
    with pytest.raises(StudyError, match="--study demo: no such study; known are paper, or give the path"):
        reading.load_study("demo")


def test_where_no_studies_are_found_a_path_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = str(reading.studies_folder() / "paper.yaml")

    def not_installed(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(reading, "CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "files", not_installed)
    with pytest.raises(StudyError, match="--study paper: no such study"):
        reading.load_study("paper")
    assert reading.load_study(paper).name == "paper"
