"""Examples: read as published, every malformed line named, few-shot draws nested and paired."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

from xlmr_sweep.commands.preparation import read_examples
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.data import examples
from xlmr_sweep.data.examples import check_sizes, few_shot, load_task, prepare_task, read_task, trained_on_note
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import split_file, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import CB, TASKS, TaskSpec


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "runs")


def test_a_folder_is_read_once_and_kept_in_the_storage(study: Study, storage: Storage) -> None:
    manifest = prepare_task(study, CB, storage)
    assert manifest["num_rows"] == {"train": 24, "validation": 9}
    assert manifest["label_counts"]["train"] == [8, 8, 8]
    data = load_task(study, CB, storage)
    assert [row["label"] for row in data.train[:4]] == [0, 1, 2, 0]
    assert set(data.train[0]) == {"example_id", "label", "premise", "hypothesis"}
    assert data.fingerprint == manifest["fingerprint"]
    assert prepare_task(study, CB, storage)["created_at"] == manifest["created_at"]


@pytest.mark.parametrize(("number", "is_said"), [(9, True), (1, True), (0, False)])
def test_evaluation_examples_that_are_trained_on_are_counted(
    study: Study, storage: Storage, number: int, *, is_said: bool
) -> None:
    """As where one file was given twice. The label makes no example another one."""
    assert study.data.folder is not None
    folder = study.data.folder / "CB"
    train = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    own = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    rows = [{**row, "label": own[place]["label"]} for place, row in enumerate(train[:number])] + own[number:]
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = StringIO()
    of_cb = study.replaced(tasks=["cb"])
    (read,) = read_examples(of_cb, storage, expand(of_cb), ProgressDisplay(Console(file=said, width=300)))
    assert read.manifest["num_trained_on"] == number
    assert (f"{number} of 9 evaluation examples have the texts of training examples" in said.getvalue()) == is_said
    assert trained_on_note(CB, {"num_rows": {"validation": 200}, "num_trained_on": 2}) == ""
    assert trained_on_note(CB, {"num_rows": {"validation": 200}}) == ""


@pytest.mark.parametrize("change", [{"label": 1}, {"premise": "another"}, {"example_id": "7"}])
def test_examples_that_were_changed_in_the_storage_are_refused(study: Study, storage: Storage, change: dict[str, Any]) -> None:
    """Records would name the fingerprint of the examples as they were."""
    folder = task_folder(study, CB)
    prepare_task(study, CB, storage)
    rows = load_task(study, CB, storage).validation
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist([{**rows[0], **change}, *rows[1:]]), sink)
    storage.write(split_file(folder, "validation"), sink.getvalue().to_pybytes())
    with pytest.raises(StudyError, match=rf"task cb: the examples in .* are not those of its manifest; delete {folder} to have"):
        load_task(study, CB, storage)
    storage.delete(folder)
    prepare_task(study, CB, storage)
    assert load_task(study, CB, storage).validation == rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", r"train\.jsonl: line 3: not JSON"),
        ("[1, 2]", r"train\.jsonl: line 3: not a JSON object"),
        ('{"premise": "a", "label": "neutral"}', r"line 3: lacks the field 'hypothesis' of task cb"),
        ('{"premise": ["a"], "hypothesis": "b", "label": 0}', r"line 3: the field 'premise' of task cb is list, not text"),
        ('{"premise": "a", "hypothesis": "\\ud800", "label": 0}', r"line 3: the field 'hypothesis' of task cb holds half"),
        ('{"premise": NaN, "hypothesis": "b", "label": 0}', r"line 3: the field 'premise' of task cb is nan, not text"),
        ('{"premise": "a", "hypothesis": "b", "label": 0, "label": 1}', r"line 3: holds the field 'label' twice"),
        ('{"premise": "a", "premise": "c", "hypothesis": "b", "label": 0}', r"line 3: holds the field 'premise' twice"),
        ("[" * 200_000, r"train\.jsonl: line 3: not JSON"),
        ('{"premise": "a", "hypothesis": "b"}', r"line 3: lacks the field 'label'"),
        ('{"premise": "a", "hypothesis": "b", "label": "other"}', r"line 3: label 'other' is not one of entailment"),
    ],
)
def test_a_malformed_line_is_named(study: Study, storage: Storage, line: str, said: str) -> None:
    assert study.data.folder is not None
    path = study.data.folder / "CB" / "train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(StudyError, match=said):
        prepare_task(study, CB, storage)
    assert not storage.exists("data")


def test_a_line_that_is_not_utf8_is_named(study: Study, storage: Storage) -> None:
    assert study.data.folder is not None
    path = study.data.folder / "CB" / "train.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:9], lines[9].replace(b'"premise": "', b'"premise": "\xe9'), *lines[10:]]))
    with pytest.raises(StudyError, match=r"train\.jsonl: line 10: not JSON \('utf-8' codec"):
        prepare_task(study, CB, storage)


def test_a_byte_order_mark_other_line_ends_and_blank_lines_change_no_example(study: Study, tmp_path: Path) -> None:
    assert study.data.folder is not None
    path = study.data.folder / "CB" / "train.jsonl"
    plain = prepare_task(study, CB, Storage(tmp_path / "plain"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    marked = prepare_task(study, CB, Storage(tmp_path / "marked"))
    assert marked["fingerprint"] == plain["fingerprint"]
    assert marked["num_rows"]["train"] == 24


def test_missing_and_empty_files_are_named(study: Study, storage: Storage) -> None:
    assert study.data.folder is not None
    path = study.data.folder / "CB" / "val.jsonl"
    path.write_text("\n")
    with pytest.raises(StudyError, match=r"val\.jsonl: holds no example"):
        prepare_task(study, CB, storage)
    path.unlink()
    with pytest.raises(StudyError, match=r"task cb: data file: .*val\.jsonl cannot be read"):
        prepare_task(study, CB, storage)


def hub_rows(feature: Any, labels: Sequence[int] = (0, 1, 2)) -> Any:
    """A stand-in for a split of a data set of the hub."""

    class Split(list[dict[str, Any]]):
        features = {"label": feature}  # noqa: RUF012
        info = type("Info", (), {"download_checksums": None})

    return Split({"premise": "a", "hypothesis": "b", "label": label, "idx": label} for label in labels)


def test_class_ids_of_the_hub_are_never_taken_for_names(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are positions by what the hub says; a column of plain numbers holds names."""
    import datasets

    numbers = TASKS["cb"].model_copy(update={"labels": ("2", "1", "0")})
    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "x"}], "sizes": [1], "seeds": [0]})
    class_ids, plain = datasets.ClassLabel(names=["2", "1", "0"]), datasets.Value("int64")

    def read(task: TaskSpec, feature: Any) -> list[int]:
        splits = {name: hub_rows(feature) for name in ("train", "validation")}
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
        return [row["label"] for row in read_task(study, task, storage).rows["train"]]

    assert read(CB, class_ids) == [0, 1, 2]
    assert read(numbers, plain) == [2, 1, 0]
    with pytest.raises(StudyError, match=r"its labels are class ids, and the labels of task cb .* \(2, 1, 0\)"):
        read(numbers, class_ids)


def test_class_ids_of_the_hub_in_another_order_than_the_labels_are_refused(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "x"}], "sizes": [1], "seeds": [0]})
    names = ["neutral", "Entailment", "contradiction"]
    splits = dict.fromkeys(("train", "validation"), hub_rows(datasets.ClassLabel(names=names)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    said = "class ids stand for neutral, Entailment, contradiction in this order, and the labels of task cb are entailment, "
    with pytest.raises(StudyError, match=said):
        read_task(study, CB, storage)
    del splits["validation"]
    with pytest.raises(StudyError, match="does not load from the hub: 'validation'"):
        read_task(study, CB, storage)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["entailment", "not_entailment"], ("Not Entailment", "entailment")),
        (["entailment", "neutral", "contradiction"], ("entailment", "contradiction")),
        (["entailment", "contradiction"], ("neutral", "entailment", "contradiction")),
        (["negative", "positive"], ("pos", "neg")),
        (["False", "True"], ("yes", "no")),
        (["-", "+"], ("+", "-")),
        (["C", "C++"], ("c++", "c")),
        (["sport", "sports betting"], ("Sports-betting", "Sport")),
    ],
)
def test_class_ids_in_another_order_are_refused_also_where_names_are_spelt_otherwise(
    names: list[str], labels: tuple[str, ...], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "x"}], "sizes": [1], "seeds": [0]})
    task = CB.model_copy(update={"labels": labels, "label_words": ("yes", "no", "maybe")[: len(labels)]})
    feature = datasets.ClassLabel(names=names)
    splits = dict.fromkeys(("train", "validation"), hub_rows(feature, (0, 1)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    with pytest.raises(StudyError, match=re.escape(f"its class ids stand for {', '.join(names)} in this order")):
        read_task(study, task, storage)
    if len(names) == len(labels) == 2:
        fitting = task.model_copy(update={"labels": labels[::-1]})
        assert [row["label"] for row in read_task(study, fitting, storage).rows["train"]] == [0, 1]


def test_a_folder_here_is_not_read_in_the_hubs_place(storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "aps" / "super_glue").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "x"}], "sizes": [1], "seeds": [0]})
    with pytest.raises(StudyError, match=r"data\.hub: aps/super_glue is also a folder here, .* start the command elsewhere"):
        read_task(study, CB, storage)


@pytest.mark.parametrize("labels", [[1, 2], ["2", "1"], [0, 1, 2]])
def test_labels_that_seem_to_be_counted_from_1_are_refused(study: Study, storage: Storage, labels: list[Any]) -> None:
    """Without an example of the last class each would be the label after its own."""
    assert study.data.folder is not None
    for split in ("train", "val"):
        rows = [json.dumps({"premise": "a", "hypothesis": "b", "label": label}) for label in labels]
        (study.data.folder / "CB" / f"{split}.jsonl").write_text("\n".join(rows))
    if 0 in labels:
        assert [row["label"] for row in read_task(study, CB, storage).rows["train"]] == labels
        return
    said = r"CB: its labels are 1, 2 and never 0, but 0 is 'entailment', the first label of task cb; write the labels' names"
    with pytest.raises(StudyError, match=said):
        read_task(study, CB, storage)


@pytest.mark.parametrize("names", [("yes", "no"), ("On", "Off"), ("LABEL_1", "LABEL_0"), ("class 1", "class 0")])
def test_numbers_for_labels_whose_names_say_another_order_are_refused(
    study: Study, storage: Storage, names: tuple[str, str]
) -> None:
    assert study.data.folder is not None
    task = CB.model_copy(update={"labels": names, "label_words": ("yes", "no")})
    for labels, is_refused in (([0, 1], True), (["1", "0"], True), (list(names), False)):
        for name in ("train", "val"):
            rows = [json.dumps({"premise": "a", "hypothesis": "b", "label": label}) for label in labels]
            (study.data.folder / "CB" / f"{name}.jsonl").write_text("\n".join(rows))
        if is_refused:
            said = (
                f"CB: its labels are 0, 1, and 0 is '{names[0]}', the first label of task cb by its position but not by its name"
            )
            with pytest.raises(StudyError, match=said):
                read_task(study, task, storage)
        else:
            assert [row["label"] for row in read_task(study, task, storage).rows["train"]] == [0, 1]


def test_larger_draws_hold_the_smaller_ones() -> None:
    pool = [{"label": i} for i in range(300)]
    draws = {size: [row["label"] for row in few_shot(pool, size, 3)] for size in (2, 16, 128)}
    assert draws[128][:16] == draws[16]
    assert draws[16][:2] == draws[2]
    assert len(set(draws[128])) == 128


def test_draws_differ_by_seed_and_cover_the_pool_evenly() -> None:
    pool = [{"label": i} for i in range(50)]
    counts = Counter(row["label"] for seed in range(400) for row in few_shot(pool, 10, seed))
    # 80 expected each, standard deviation 8: a biased draw is far outside five of them.
    assert len(counts) == 50
    assert all(40 < count < 120 for count in counts.values())


def test_a_draw_never_changes_with_a_library() -> None:
    assert [row["label"] for row in few_shot([{"label": i} for i in range(20)], 6, 0)] == FIRST_SIX


FIRST_SIX = [18, 11, 2, 10, 12, 0]


def test_a_size_above_the_pool_is_refused() -> None:
    check_sizes(CB, 128, [128])
    with pytest.raises(StudyError, match="sizes: 128 is above the 24 training examples of task cb"):
        check_sizes(CB, 24, [8, 128])


def test_data_that_change_while_they_are_read_are_not_kept(
    study: Study, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.data.folder is not None
    path, read = study.data.folder / "CB" / "val.jsonl", examples.read_line

    def replaced(line: bytes) -> Any:
        # The first line is one of the training rows.
        path.write_bytes(path.read_bytes().replace(b"0", b"1"))
        return read(line)

    monkeypatch.setattr(examples, "read_line", replaced)
    path.write_text('{"premise": "a", "hypothesis": "b", "label": 0}\n')
    with pytest.raises(StudyError, match="task cb: files in .* changed while they were read; start the command again"):
        prepare_task(study, CB, storage)
    assert not storage.names("data", "")


@pytest.mark.parametrize("given", [[7, 7], [1, None], [{"p": 0}, {"p": 0}]])
def test_examples_that_share_an_idx_are_told_apart(study: Study, storage: Storage, given: list[Any]) -> None:
    assert study.data.folder is not None
    rows = [{"premise": text, "hypothesis": "b", "label": 0, "idx": idx} for text, idx in zip("xy", given, strict=True)]
    (study.data.folder / "CB" / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_task(study, CB, storage).rows["validation"]
    assert [(row["example_id"], row["premise"]) for row in read] == [("0", "x"), ("1", "y")]
