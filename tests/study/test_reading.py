"""Reading a study file: numbers are what they look like, and the studies that ship with the project are found."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study import reading
from xlmr_sweep.study.reading import load_study


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


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("sizes", "[010]", 8),
        ("seeds", "[0, 1:30]", 90),
        ("sizes", "[0x10]", 16),
        ("sizes", "[1_0]", 10),
        ("seeds", "[0b11]", 3),
        ("finetune", "{learning_rate: 1:30.5}", 90.5),
        ("name", "007", 7),
    ],
)
def test_a_number_that_yaml_reads_as_another_is_refused(key: str, written: str, read: float, tmp_path: Path) -> None:
    keys = {"name": "s", "models": "[{name: m, demo: tiny}]", "sizes": "[8]", "seeds": "[0]", key: written}
    (tmp_path / "own.yaml").write_text("".join(f"{name}: {value}\n" for name, value in keys.items()))
    number = written.strip("[]{}").split(", ")[-1].removeprefix("learning_rate: ")
    said = rf"own\.yaml: not a YAML file: line \d, column \d+: {number} would be read as {read}; write"
    with pytest.raises(StudyError, match=said):
        load_study(str(tmp_path / "own.yaml"))


def test_decimal_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    text = """
name: s
models: [{name: "007", demo: tiny}]
sizes: [8, 10, +100]
seeds: [0]
finetune: {learning_rate: 1.5e-05, weight_decay: 0.010, warmup: .5, steps: 320}
instruct: {learning_rate: 1e-4}
"""
    (tmp_path / "own.yml").write_text(text)
    study = load_study(str(tmp_path / "own.yml"))
    assert (study.models[0].name, study.sizes) == ("007", (8, 10, 100))
    assert (study.finetune.learning_rate, study.finetune.weight_decay, study.finetune.warmup) == (1.5e-5, 0.01, 0.5)
    assert study.instruct.learning_rate == 1e-4
