"""What a report shows of the manifests in a storage."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.artifacts import artifacts
from analysis.derive import derive
from analysis.options import Options
from analysis.report import build_report
from analysis.tables import load
from xlmr_sweep.storage.artifacts import manifest_of, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.identity import mixture_name, recipe_folder_name
from xlmr_sweep.study.spec import Study


def test_manifests_become_figures_hours_and_provenance(study: Study, storage: Storage, tmp_path: Path) -> None:
    mixture = {"name": "xp3", "fingerprint": "f1f2", "counts": {"read": 9, "after target filter": 7}}
    mixture |= {"length_histogram": {"edges": [0, 32, 64], "counts": [3, 4]}, "top_targets": [["yes", 5], ["no", 2]]}
    storage.write_json(f"data/{mixture_name(study)}/manifest.json", mixture)
    job = {"model": "base", "steps": 10, "tokens": 1e6, "wall_time_s": 1800.0, "num_gpus": 2, "num_ranks": 2, "weights": "w1"}
    storage.write_json(f"instruct/{recipe_folder_name(study, study.models[0])}/manifest.json", {**job, "loss_curve": [[1, 3.0]]})
    paths = build_report(tmp_path / "runs")
    assert pd.read_csv(paths.csv["mixture_targets"])["count"].tolist() == [5, 2]
    assert pd.read_csv(paths.csv["mixture_lengths"])["samples"].tolist() == [3, 4]
    hours = pd.read_csv(paths.csv["hours"]).set_index("stage")
    assert hours.loc["instruct", "gpu_hours"] == pytest.approx(1.0)
    assert hours.loc["prompted", "gpu_hours"] == pytest.approx(12 * 36 / 3600)
    facts = pd.read_csv(paths.csv["provenance"]).set_index("what")["value"]
    assert facts["instruction data"] == "xp3 f1f2"
    assert facts["instruction-tuned weights of base"] == "w1"
    assert facts["version of torch"] == "2.13.0"


def test_a_damaged_manifest_counts_as_absent(study: Study, storage: Storage, tmp_path: Path) -> None:
    storage.write(f"data/{mixture_name(study)}/manifest.json", b"not json")
    results = load(tmp_path / "runs")
    found = artifacts(results)
    assert found.mixture is None
    assert "mixture_counts" not in derive(results, found, Options()).tables


def test_examples_of_a_task_are_those_of_its_first_prompt(storage: Storage, study: Study) -> None:
    prompts = [{"name": "source", "prompt": "{source}: {premise} {hypothesis}?"}, {"name": "own"}]
    asked = study.replaced(prompts={"cb": prompts})
    write_study(storage, asked)
    folder = task_folder(asked, asked.first_asked("cb"))
    assert folder != task_folder(asked, asked.task("cb"))
    storage.write_json(manifest_of(folder), {"fingerprint": "of both fields"})
    assert artifacts(load(str(storage))).task_data["cb"] == {"fingerprint": "of both fields"}
