"""Single examples on the page: the answers of the predictions, texts where they are, and never more than there is room for."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from analysis.examples import examples_of
from analysis.page import MAX_PAGE_BYTES
from analysis.predictions import read_predictions
from analysis.report import build_report
from analysis.tables import load
from xlmr_sweep.storage.artifacts import split_file, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study


def unpacked(text: str) -> tuple[dict[str, Any], np.ndarray]:
    whole = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(whole[:4], "little")
    head = json.loads(whole[4 : 4 + length])
    shape = [len(head[name]) for name in ("ids", "model", "paradigm", "size", "seed")]
    return head, np.frombuffer(whole[4 + length :], dtype="uint8").reshape(shape)


def examples_on_page(storage: Storage, **options: Any) -> tuple[str, dict[str, str]]:
    html = build_report(str(storage), **options).html.read_text()
    return html, dict(re.findall(r'<script type="text/plain" data-examples="(\w+)">([^<]*)</script>', html))


def test_the_page_holds_the_answers_of_every_trial(made: Storage, study: Study) -> None:
    _, found = examples_on_page(made)
    assert list(found) == ["cb", "wic"]
    head, answers = unpacked(found["cb"])
    assert (head["model"], head["paradigm"], head["size"]) == (["base"], ["baseline", "prompted", "instructed"], [8, 32])
    assert len(head["ids"]) == head["total"] == 56
    for trial in expand(study):
        place = (0, head["paradigm"].index(trial.paradigm), head["size"].index(trial.train_size), trial.seed)
        codes = answers[(slice(None), *place)]
        file = made.local / f"predictions/{trial.trial_id}.parquet"  # type: ignore[operator]
        if trial.task != "cb":
            continue
        if not file.exists():
            assert not codes.any()
            continue
        kept = parquet.read_table(file).to_pandas().set_index("example_id").loc[head["ids"]]
        assert ((codes - 1) // head["levels"]).tolist() == kept["prediction"].tolist()
        assert head["gold"] == kept["label"].tolist()
        sure = ((codes - 1) % head["levels"] - 1.0) / (head["levels"] - 2)
        first = (kept["prediction"] == 0).to_numpy()
        assert sure[first] == pytest.approx(kept["score_0"][first], abs=0.012)
        # The probability of the other class is in no file of this storage.
        assert set(((codes - 1) % head["levels"])[~first]) <= {0}


def test_those_on_which_instruction_tuning_helped_come_first(made: Storage) -> None:
    results = load(str(made))
    (task,) = examples_of(results, read_predictions(results, confidence=True)[0], ["wic"])
    data = read_predictions(results)[0]["wic"]
    right = dict(zip(data.example_ids, data.correct.T, strict=True))
    shares = {name: (data.trials["paradigm"] == name).to_numpy() for name in ("instructed", "prompted")}
    gains = [right[name][shares["instructed"]].mean() - right[name][shares["prompted"]].mean() for name in task.ids]
    assert gains == sorted(gains, reverse=True)
    head, answers = unpacked(task.packed(800))
    assert 2 < len(head["ids"]) < 56 == head["total"]
    assert len(task.packed(800)) <= 800
    half = (len(head["ids"]) + 1) // 2
    assert head["ids"] == [*task.ids[:half], *task.ids[len(task.ids) - (len(head["ids"]) - half) :]]
    assert answers.reshape(len(head["ids"]), -1)[0].tolist() == task.answers[0].tolist()
    assert task.packed(10) == ""


def test_texts_are_the_storages(storage: Storage, study: Study) -> None:
    rows = [
        {"example_id": str(i), "label": i % 3, "premise": f"premise {i} </script>", "hypothesis": "h" * 2000} for i in range(56)
    ]
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    storage.write(split_file(task_folder(study, study.task("cb")), "validation"), sink.getvalue().to_pybytes())
    html, found = examples_on_page(storage)
    head, _ = unpacked(found["cb"])
    assert head["fields"] == ["hypothesis", "premise"]
    assert head["texts"][0] == ["h" * 1500 + "…", f"premise {head['ids'][0]} </script>"]
    assert unpacked(found["wic"])[0]["fields"] == []
    assert "The texts of wic are not in the storage" in html
    html, found = examples_on_page(storage, examples=False)
    assert not found
    assert 'id="examples"' not in html


def test_examples_leave_the_page_below_its_limit(made: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, found = examples_on_page(made)
    assert len(whole) < MAX_PAGE_BYTES
    limit = len(whole.encode()) - sum(map(len, found.values())) + 3_000
    monkeypatch.setattr("analysis.page.MAX_PAGE_BYTES", limit)
    html, fewer = examples_on_page(made)
    assert len(html.encode()) <= limit
    assert 0 < len(fewer["cb"]) < len(found["cb"])
