"""Reading a study file: YAML as it is written, errors with their place, and the studies that ship with the project."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from builders import CB_TASK

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.study_file import write_study
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


@pytest.mark.parametrize("key", ["labels", "label_words"])
def test_labels_and_words_without_an_order_are_refused(key: str, tmp_path: Path) -> None:
    """Each process would read a set in another order, and labels belong to words by theirs."""
    task = {"name": "t", "labels": "[a, b]", "label_words": "[good, bad]", key: "!!set {x, y}"}
    task |= {"prompt": '"{text}"', "baseline": '["{text}"]', "long_field": "text", "folder": "T"}
    written = ", ".join(f"{name}: {value}" for name, value in task.items())
    path = tmp_path / "own.yaml"
    path.write_text(f"name: s\nmodels: [{{name: m, demo: tiny}}]\nsizes: [8]\nseeds: [0]\ntasks: [{{{written}}}]\n")
    with pytest.raises(StudyError, match=r"own\.yaml: not a YAML file: line 5, column \d+: !!set has no order; write a list"):
        load_study(str(path))


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


def test_what_yaml_reads_as_a_truth_value_is_one_only_where_it_is_asked_for(tmp_path: Path) -> None:
    text = "{name: s, models: [{name: m, demo: tiny}], sizes: [8], seeds: [0], finetune: {gpu_graphs: off, save_weights: on}}"
    (tmp_path / "own.yaml").write_text(text)
    finetune = load_study(str(tmp_path / "own.yaml")).finetune
    assert (finetune.gpu_graphs, finetune.save_weights) == ("off", True)


def test_not_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: [unclosed\n")
    with pytest.raises(StudyError, match=r"bad\.yaml: not a YAML file") as error:
        load_study(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"name: a\nfinetune:\n\tsteps: 3\n", "line 3, column 1: while scanning for the next token, found character '\\t'"),
        (b"name: sm\xe4ll\n", "not a YAML file: 'utf-8' codec"),
        (b"name: a\n---\nname: b\n", "line 2, column 1: expected a single document"),
        (b"name: *other\n", "line 1, column 7: found undefined alias"),
        (b"name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"[" * 5000, "nested too deeply"),
        (b"- name\n", "holds no mapping"),
        (b"", "holds no mapping"),
        (b"name: a\nmodels: &m [*m]\n", "models.0: give a mapping"),
    ],
)
def test_what_yaml_cannot_be_read_from_is_one_line_with_its_place(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(StudyError) as error:
        load_study(str(path))
    assert said in str(error.value)
    assert "bad.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_that_is_there_twice_is_refused(study_file: Callable[..., Path]) -> None:
    path = study_file()
    text = path.read_text()
    path.write_text(text + "\nseeds: [7]\n")
    with pytest.raises(StudyError, match="the key 'seeds' is there twice"):
        load_study(str(path))
    path.write_text(text.replace("cluster:\n", "cluster:\n  cpus: 3\n"))
    with pytest.raises(StudyError, match=r"line 3, column 3: the key 'cpus' is there twice"):
        load_study(str(path))


def test_the_study_of_a_storage_is_a_study_file_too(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(tasks=["cb", {**CB_TASK, "name": "so", "prompt": "{premise} \U0001f600 {hypothesis}"}])))
    storage = Storage(tmp_path / "runs")
    write_study(storage, study)
    path = tmp_path / "runs" / "study.json"
    assert load_study(str(path)) == study
    path.write_text('{"name": "s",\n "name": "t"}')
    with pytest.raises(StudyError, match="study.json: not a JSON file: the key 'name' is there twice"):
        load_study(str(path))
    path.write_text('{"name": "s",\n "sizes" [8]}')
    with pytest.raises(StudyError, match="study.json: not a JSON file: line 2, column 10: Expecting ':' delimiter"):
        load_study(str(path))


def test_anchors_and_merges_work_and_a_merged_key_may_be_overridden(study_file: Callable[..., Path]) -> None:
    path = study_file()
    plain = load_study(str(path))
    text = path.read_text()
    path.write_text(text.replace("finetune:\n", "finetune:\n  <<: {warmup: 0.5, steps: 9}\n"))
    assert load_study(str(path)).finetune == plain.finetune.model_copy(update={"warmup": 0.5})
    path.write_text(text.replace("sizes:\n- 4\n- 8\n", "sizes: &sizes [4, 8]\n") + "\nmax_train_size: 8\n")
    assert load_study(str(path)).sizes == plain.sizes
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_study(str(path)) == plain


def test_folders_are_relative_to_the_study_file(study_file: Callable[..., Path]) -> None:
    path = study_file()
    study = load_study(str(path))
    assert study.data.folder == path.parent / "superglue"
