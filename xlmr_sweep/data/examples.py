"""The tasks' examples: read from the hub, a folder or the demo, checked, and kept in the storage as parquet.

In: a study. Out: `data/<task>-<hash>/{train,validation}.parquet` with a manifest, and few-shot draws from it. A trial reads only
the storage, so a cluster's nodes need neither the hub nor the user's folder.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from xlmr_sweep.data.json_line import given_twice, not_json, read_line, text_problem
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of, split_file, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import data_identity
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec

Row = dict[str, Any]
Example = TypeVar("Example")
TOLERATED = 0.01
"""Share of evaluation examples that may be in the training set without a word. Published data have some."""

SPLITS = {"train": "train", "validation": "val"}
"""Our name of each split, and the name in the official archive."""


@dataclass(frozen=True)
class TaskData:
    """A task's prepared examples: rows of `example_id` (string), `label` (class id) and the task's fields (strings)."""

    train: list[Row]
    validation: list[Row]
    fingerprint: str


def prepare_task(study: Study, task: TaskSpec, storage: Storage) -> dict[str, Any]:
    """Puts a task's examples into the storage, once, and returns their manifest.

    Raises:
        StudyError: if a file is missing, empty, not jsonl, or lacks a field (file and line named), if the hub's data set does not
            load, or if a label is unknown.
    """
    read = read_task(study, task, storage)
    read.keep(storage)
    return read.manifest


@dataclass(frozen=True)
class ReadTask:
    """A task's examples as they were read and checked. If the storage has them already, only their manifest."""

    folder: str
    manifest: dict[str, Any]
    rows: dict[str, list[Row]]

    def keep(self, storage: Storage) -> None:
        """Writes the examples into the storage, and then the manifest."""
        import pyarrow as pa
        from pyarrow import parquet

        for split, examples in self.rows.items():
            sink = pa.BufferOutputStream()
            parquet.write_table(pa.Table.from_pylist(examples), sink)
            storage.write(split_file(self.folder, split), sink.getvalue().to_pybytes())
        if self.rows:
            storage.write_json(manifest_of(self.folder), self.manifest)


def read_task(study: Study, task: TaskSpec, storage: Storage) -> ReadTask:
    """Reads and checks a task's examples, unless the storage has them. Writes nothing.

    Raises:
        StudyError: for the same reasons as `prepare_task`.
    """
    folder = task_folder(study, task)
    kept = storage.read_json(manifest_of(folder))
    if kept is not None:
        return ReadTask(folder, kept, {})
    rows, resolved = _read(study, task)
    if task_folder(study, task) != folder:
        raise StudyError(f"task {task.name}: files in {study.data.folder} changed while they were read; start the command again")
    manifest = {
        "task": task.name,
        "identity": data_identity(study, task),
        "resolved": resolved,
        "num_rows": {split: len(examples) for split, examples in rows.items()},
        "label_counts": {
            split: [sum(row["label"] == i for row in examples) for i in range(len(task.labels))]
            for split, examples in rows.items()
        },
        "num_trained_on": _num_trained_on(task, rows),
        "fingerprint": fingerprint(rows, 32),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return ReadTask(folder, manifest, rows)


def trained_on_note(task: TaskSpec, manifest: Mapping[str, Any]) -> str:
    """Says how many evaluation examples are in the training set too; empty for hardly any. Earlier manifests do not tell."""
    number, every = manifest.get("num_trained_on", 0), manifest["num_rows"]["validation"]
    if number <= TOLERATED * every:
        return ""
    return (
        f"task {task.name}: {number} of {every} evaluation examples have the texts of training examples; scores tell "
        "nothing new of those: look whether one file was given twice"
    )


def _num_trained_on(task: TaskSpec, rows: Mapping[str, Sequence[Row]]) -> int:
    train, validation = ([tuple(row[field] for field in task.fields) for row in rows[split]] for split in SPLITS)
    known = set(train)
    return sum(texts in known for texts in validation)


def load_task(study: Study, task: TaskSpec, storage: Storage) -> TaskData:
    """Reads a task's prepared examples.

    Raises:
        StudyError: if they were not prepared, or are no more those that were: edited by hand, or half copied.
    """
    from pyarrow import parquet

    folder = task_folder(study, task)
    manifest = storage.read_json(manifest_of(folder))
    if manifest is None:
        raise StudyError(f"task {task.name}: {storage.path(folder)} is not there; run experiments/prepare_data.py")
    tables = [parquet.read_table(io.BytesIO(storage.read(split_file(folder, split)))) for split in SPLITS]
    rows = {split: table.to_pylist() for split, table in zip(SPLITS, tables, strict=True)}
    if fingerprint(rows, 32) != manifest["fingerprint"]:
        raise StudyError(
            f"task {task.name}: the examples in {storage.path(folder)} are not those of its manifest; delete {folder} to have "
            "them read anew, and change examples in the data's own files"
        )
    return TaskData(rows["train"], rows["validation"], manifest["fingerprint"])


def check_sizes(task: TaskSpec, num_train: int, sizes: Sequence[int]) -> None:
    """Refuses a training size above the number of training examples.

    Raises:
        StudyError: naming the size and the number of training examples.
    """
    for size in sizes:
        if size > num_train:
            raise StudyError(f"sizes: {size} is above the {num_train} training examples of task {task.name}")


def few_shot(train: Sequence[Example], size: int, seed: int) -> list[Example]:
    """Draws `size` training examples. Each seed has one shuffle, and a set is its first part. So larger sets contain smaller
    ones.

    The shuffle sorts the positions by a hash of seed and position. It depends on nothing else. So every model and paradigm
    trains on the same examples, and no version of a library changes them. Classes are not balanced. The paper does not say
    that they are, and Scao and Rush (2021) also draw the first part of one shuffle.
    """

    def key(position: int) -> bytes:
        return hashlib.sha256(f"few-shot:{seed}:{position}".encode()).digest()

    return [train[position] for position in sorted(range(len(train)), key=key)[:size]]


def _read(study: Study, task: TaskSpec) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    data, labels = study.data, set[str]()
    if data.source == "demo":
        from xlmr_sweep.data.demo import task_rows

        raw = task_rows(task.name, data.seed)
        return {split: list(_checked(task, raw[split], f"demo {task.name} {split}", labels)) for split in SPLITS}, {}
    if data.source == "folder":
        assert data.folder is not None
        paths = {split: data.folder / task.folder / f"{name}.jsonl" for split, name in SPLITS.items()}
        rows = {split: list(_checked(task, _jsonl(path), str(path), labels)) for split, path in paths.items()}
        _check_numbers(task, labels, str(data.folder / task.folder))
        return _named_apart(rows), {}
    return _read_hub(study, task)


def _named_apart(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Numbers the examples of a split by place if two of them have the same `idx`, because an id must belong to one example."""
    for examples in rows.values():
        if len({row["example_id"] for row in examples}) < len(examples):
            for place, row in enumerate(examples):
                row["example_id"] = str(place)
    return rows


_NUMBERS = {"yes": 1, "on": 1, "no": 0, "off": 0}
"""Names of two labels that say which of them is 1. Those of the truth values are known where a label is read."""


def _check_numbers(task: TaskSpec, labels: set[str], where: str) -> None:
    """Refuses whole numbers as labels that may not be meant as positions.

    They seem to be counted from 1, or the labels' own names say another order, such as LABEL_1 and LABEL_0, or yes and no.

    Raises:
        StudyError: naming both.
    """
    if not all(label.isdecimal() and label not in task.labels for label in labels):
        return
    given, first = ", ".join(sorted(labels)), f"{task.labels[0]!r}, the first label of task {task.name}"
    if "0" not in labels:
        raise StudyError(f"{where}: its labels are {given} and never 0, but 0 is {first}; write the labels' names")
    digits = [re.findall("[0-9]{1,9}", name) for name in task.labels]
    are_numbered = all(len(found) == 1 for found in digits)
    by_name = [int(digits[i][0]) if are_numbered else _NUMBERS.get(name.casefold()) for i, name in enumerate(task.labels)]
    positions = list(range(len(task.labels)))
    if by_name != positions and set(by_name) == set(positions):
        raise StudyError(
            f"{where}: its labels are {given}, and 0 is {first} by its position but not by its name; write the names"
        )


def _read_hub(study: Study, task: TaskSpec) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    import datasets

    data = study.data
    if Path(data.hub).is_dir():
        raise StudyError(
            f"data.hub: {data.hub} is also a folder here, {Path(data.hub).resolve()}, and would be read in the hub's place; "
            "start the command elsewhere"
        )
    try:
        loaded = datasets.load_dataset(data.hub, task.hub_config, revision=data.revision)
        commit = next(iter(loaded["train"].info.download_checksums or {}), None)
        splits = {split: loaded[split] for split in SPLITS}
    except Exception as error:
        # The hub's client raises dozens of unrelated classes. All of them mean that the data cannot be read.
        problem = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(
            f"task {task.name}: {data.hub} ({task.hub_config}, {data.revision}) does not load from the hub: {problem}; "
            "or set data.source: folder"
        ) from None
    rows: dict[str, list[Row]] = {}
    labels: set[str] = set()
    for split in SPLITS:
        where = f"{data.hub}/{task.hub_config}/{split}"
        _check_class_ids(task, splits[split], where)
        rows[split] = list(_checked(task, enumerate(splits[split], 1), where, labels))
    if not _class_names(splits["train"]):
        _check_numbers(task, labels, f"{data.hub}/{task.hub_config}")
    return _named_apart(rows), {"source_file": commit}


def _class_names(rows: Any) -> Sequence[str]:
    """Returns the names of the hub's class ids in their order. Empty if its labels are no class ids."""
    feature: Any = (getattr(rows, "features", None) or {}).get("label")
    return list(feature.names) if hasattr(feature, "int2str") else []


def _check_class_ids(task: TaskSpec, rows: Any, where: str) -> None:
    """Refuses class ids of the hub that mean other labels in the task.

    Raises:
        StudyError: naming the labels.
    """
    names = _class_names(rows)
    if names and task.has_doubtful_labels:
        raise StudyError(
            f"{where}: its labels are class ids, and the labels of task {task.name} are named by numbers or truth values in "
            f"another order ({', '.join(task.labels)}); give other names"
        )
    pairs = zip(task.labels, names, strict=False)
    if any(_likeness(ours, theirs) < max(_likeness(ours, name) for name in names) for ours, theirs in pairs):
        raise StudyError(
            f"{where}: its class ids stand for {', '.join(names)} in this order, and the labels of task {task.name} are "
            f"{', '.join(task.labels)}; write labels and label words in the order of the class ids"
        )


_TRUTHS = {"yes": "true", "no": "false"}


def _likeness(ours: str, theirs: str) -> int:
    """Tells how surely two names mean one label.

    Returns:
        3 where they are spelt alike but for capitals, 2 where their letters or truth values are the same (Not-Entailment and
        not_entailment, no and False), 1 where one begins the other (pos and positive), 0 otherwise.
    """
    if ours.casefold() == theirs.casefold():
        return 3
    letters = ("".join(filter(str.isalnum, name.casefold())) for name in (ours, theirs))
    one, other = (_TRUTHS.get(name, name) for name in letters)
    # Names without letters, such as + and -, have nothing more to compare.
    if one and one == other:
        return 2
    return int(min(len(one), len(other)) > 1 and (one.startswith(other) or other.startswith(one)))


def _jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Yields line numbers and rows of a jsonl file."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = read_line(line)
                except (ValueError, RecursionError) as error:
                    raise StudyError(f"{path}: line {number}: {not_json(error)}") from None
                if not isinstance(row, dict):
                    raise StudyError(f"{path}: line {number}: not a JSON object")
                yield number, row
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None


def _checked(task: TaskSpec, rows: Iterable[Row] | Iterable[tuple[int, Row]], where: str, labels: set[str]) -> Iterator[Row]:
    """Yields the fields that a task needs, as text, and the class id. Adds each label, as it was given, to `labels`.

    Raises:
        StudyError: naming the line that is wrong.
    """
    number = 0
    for item in rows:
        number, row = item if isinstance(item, tuple) else (number + 1, item)
        twice = given_twice(row, (*task.fields, "label"))
        if twice:
            raise StudyError(f"{where}: line {number}: holds the field {twice!r} twice")
        missing = [field for field in (*task.fields, "label") if row.get(field) is None]
        if missing:
            raise StudyError(f"{where}: line {number}: lacks the field {missing[0]!r} of task {task.name}")
        for field in task.fields:
            problem = text_problem(row[field])
            if problem:
                raise StudyError(f"{where}: line {number}: the field {field!r} of task {task.name} {problem}")
        try:
            label = task.parse_label(row["label"])
        except ValueError as error:
            raise StudyError(f"{where}: line {number}: {error}") from None
        labels.add(str(row["label"]))
        given = row.get("idx")
        example_id = str(number - 1 if given is None else given)
        yield {"example_id": example_id, "label": label, **{field: str(row[field]) for field in task.fields}}
    if number == 0:
        raise StudyError(f"{where}: holds no example")
