"""Single examples for a reader to look at. In: a task's predictions and, where at hand, its texts. Out: bytes for the page.

Each answer of a trial is one byte: 0 where there is none, else 1 + class x levels + level. Level 0 means that the probability is
not known; the others go from 0 to 1 evenly. A task is a gzip file: the length of a JSON text (4 bytes, little endian), that text,
and the answers, an example after another, each ordered by model, paradigm, size and seed.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from analysis.predictions import UNKNOWN, TaskPredictions
from analysis.schema import ordered
from analysis.tables import Results
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import DATA, split_file, task_folder

MAX_TASK_BYTES = 1_000_000
"""Characters of the page that one task may take."""
MAX_TEXT = 1_500
"""Characters of a field's text that are shown."""
NUM_CODES = 254


@dataclass(frozen=True)
class TaskExamples:
    """What the page shows of one task; examples on which instruction tuning helped most come first."""

    task: str
    labels: Sequence[str]
    fields: Sequence[str]
    """Names of the texts; empty where they are not at hand."""
    axes: Mapping[str, Sequence[str | int]]
    """`model`, `paradigm`, `size` and `seed`, each with its values in order."""
    ids: Sequence[str]
    gold: Sequence[int]
    texts: Sequence[Sequence[str]]
    """Of each example, in the order of `fields`."""
    answers: np.ndarray
    """(num_examples, models x paradigms x sizes x seeds), uint8."""
    levels: int

    def packed(self, most: int) -> str:
        """Returns as many examples as fit, in base64.

        Where not all fit, those on which prompted and instructed trials differ least are left out.

        Args:
            most: characters. Where not even one example fits, the text is empty.
        """
        number = len(self.ids)
        while number:
            # Both ends of the order: what was gained and what was lost.
            chosen = [*range((number + 1) // 2), *range(len(self.ids) - number // 2, len(self.ids))]
            text = base64.b64encode(self._bytes(chosen)).decode("ascii")
            if len(text) <= most:
                return text
            number = min(number - 1, int(0.97 * number * most / len(text)))
        return ""

    def _bytes(self, chosen: Sequence[int]) -> bytes:
        head = {
            "task": self.task,
            "labels": list(self.labels),
            "fields": list(self.fields),
            **self.axes,
            "levels": self.levels,
            "total": len(self.ids),
            "ids": [self.ids[i] for i in chosen],
            "gold": [int(self.gold[i]) for i in chosen],
            "texts": [list(self.texts[i]) for i in chosen] if self.fields else [],
        }
        text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
        # Without a time, so that the same results give the same page.
        return gzip.compress(len(text).to_bytes(4, "little") + text + self.answers[list(chosen)].tobytes(), mtime=0)


def examples_of(results: Results, predictions: Mapping[str, TaskPredictions], tasks: Sequence[str]) -> list[TaskExamples]:
    """Returns what there is to show, a task each, in the order of the tasks."""
    return [_task_examples(results, predictions[task]) for task in tasks if task in predictions]


def _task_examples(results: Results, data: TaskPredictions) -> TaskExamples:
    spec = results.study.first_asked(data.task) if results.study is not None else None
    labels = list(spec.labels) if spec is not None else [str(i) for i in range(data.num_classes)]
    texts = _texts(results, data.task)
    fields = list(spec.fields) if spec is not None and texts else []
    order = np.argsort(-_gain(data), kind="stable")
    ids = [data.example_ids[i] for i in order]
    blank = dict.fromkeys(fields, "")
    levels = NUM_CODES // max(len(labels), data.num_classes)
    axes, answers = _answers(results, data, levels)
    return TaskExamples(
        task=data.task,
        labels=labels,
        fields=fields,
        axes=axes,
        ids=ids,
        gold=data.labels[order].tolist(),
        texts=[[_cut(texts.get(name, blank)[field]) for field in fields] for name in ids],
        answers=answers[order],
        levels=levels,
    )


def _gain(data: TaskPredictions) -> np.ndarray:
    """Returns the share of instructed trials that are right, less that of prompted ones; (num_examples,)."""
    right = data.correct.astype("float64")
    shares = []
    for paradigm in ("instructed", "prompted"):
        chosen = (data.trials["paradigm"] == paradigm).to_numpy()
        shares.append(right[chosen].mean(axis=0) if chosen.any() else np.zeros(right.shape[1]))
    return np.asarray(shares[0] - shares[1])


def _answers(results: Results, data: TaskPredictions, levels: int) -> tuple[dict[str, list[str | int]], np.ndarray]:
    """Returns the axes, and the code of each answer, (num_examples, models x paradigms x sizes x seeds)."""
    trials, study = data.trials, results.study
    axes: dict[str, list[str | int]] = {
        "model": list(ordered(trials["model"], [model.name for model in study.models] if study else [])),
        "paradigm": list(ordered(trials["paradigm"])),
        "size": sorted(trials["train_size"].unique().tolist()),
        "seed": sorted(trials["seed"].unique().tolist()),
    }
    places = np.zeros(len(trials), dtype="int64")
    for name, column in (("model", "model"), ("paradigm", "paradigm"), ("size", "train_size"), ("seed", "seed")):
        index = {value: i for i, value in enumerate(axes[name])}
        places = places * len(index) + trials[column].map(index).to_numpy(dtype="int64")
    codes = 1 + data.predictions.astype("int64") * levels
    if data.confidence is not None:
        known = data.confidence != UNKNOWN
        codes += np.where(known, 1 + np.rint(data.confidence / 100 * (levels - 2)).astype("int64"), 0)
    answers = np.zeros((len(data.labels), int(np.prod([len(values) for values in axes.values()]))), dtype="uint8")
    answers[:, places] = codes.T
    return axes, answers


def _texts(results: Results, task: str) -> dict[str, dict[str, str]]:
    """Returns the fields of each evaluation example by its id; empty where the storage has no such examples."""
    from xlmr_sweep.storage.files import Storage
    from xlmr_sweep.storage.relocated import folder_of

    study = results.study
    if study is None or results.storage is None:
        return {}
    storage = Storage(results.storage)
    try:
        folder = folder_of(storage, DATA, task, partial(task_folder, study, study.first_asked(task)))
        table = parquet.read_table(BytesIO(storage.read(split_file(folder, "validation"))))
    except (OSError, StudyError, pa.ArrowException):
        return {}
    if not {"example_id", *study.first_asked(task).fields} <= set(table.column_names):
        return {}
    return {row["example_id"]: row for row in table.to_pylist()}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
