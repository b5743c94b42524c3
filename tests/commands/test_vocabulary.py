"""Tokens counted without torch: against what a real trial keeps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import FAMILIES, WORDS, make_encoder

from xlmr_sweep.commands.vocabulary import count_rows
from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import model_folder_name
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.warm_state import WarmState


def cells(study: Study) -> list[Trial]:
    """One trial a task and paradigm that starts from the model's own weights."""
    found = {(t.task, t.paradigm): t for t in expand(study) if t.paradigm != "instructed"}
    assert len(found) == 4
    return list(found.values())


def kept(study: Study, storage: Storage, trial: Trial) -> int:
    for task in study.tasks:
        prepare_task(study, task, storage)
    number = WarmState(study, storage, World()).resolved(trial)["vocabulary_kept"]
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_length", [64, 48])
def test_counted_rows_are_those_that_a_trial_keeps(
    family: str, max_length: int, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_encoder(tmp_path / family, family, words=[*WORDS, *(f"w{i}" for i in range(200))])
    settings = {"steps": 1, "batch_size": 4, "max_length": max_length}
    study = load_study(str(study_file(models=[{"name": "tiny", "folder": str(folder)}], finetune=settings)))
    # Words of their own at the start and at the end of what is cut, and a special token that a text spells out.
    for path in (tmp_path / "superglue").rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for i, row in enumerate(rows):
            row["premise"] = f"w{2 * i} {row['premise']} <mask> w{2 * i + 1}"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    storage = Storage(tmp_path / "runs")
    trials = cells(study)
    unprepared = [count_rows(study, storage, [trial])["tiny"] for trial in trials]
    real = [kept(study, storage, trial) for trial in trials]
    counted = [count_rows(study, storage, [trial])["tiny"] for trial in trials]
    assert counted == unprepared
    assert count_rows(study, storage, trials) == {"tiny": max(counted)}
    assert len(set(real)) > 2
    for trial, number, bound in zip(trials, real, counted, strict=True):
        # Bare texts are counted uncut.
        is_exact = max_length == 64 or trial.paradigm == "prompted"
        assert bound == number if is_exact else number <= bound, trial.cell
    if max_length == 48:
        prompts = {trial.task: bound for trial, bound in zip(trials, counted, strict=True) if trial.paradigm == "prompted"}
        longer = study.replaced(finetune=study.finetune.model_copy(update={"max_length": 100}))
        uncut = {task: count_rows(longer, storage, [t for t in cells(longer) if t.task == task])["tiny"] for task in prompts}
        assert any(prompts[task] < uncut[task] for task in prompts), "something was cut"


def test_a_demo_model_counts_once_it_was_made(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(models=[{"name": "made", "demo": "tiny"}])))
    storage = Storage(tmp_path / "runs")
    trials = cells(study)
    assert count_rows(study, storage, trials) == {}
    name = model_folder_name(study, study.models[0])
    shutil.copytree(make_encoder(tmp_path / "encoder"), tmp_path / "runs" / "models" / name)
    (tmp_path / "runs" / "models" / name / "manifest.json").write_text('{"weights": "0"}')
    assert count_rows(study, storage, trials) == {"made": max(kept(study, storage, trial) for trial in trials)}


def test_what_is_not_at_hand_is_not_counted(study_file: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "own")
    spoilt = make_encoder(tmp_path / "spoilt")
    (spoilt / "tokenizer.json").write_text('{"version": 1}')
    bare = make_encoder(tmp_path / "bare")
    (bare / "tokenizer_config.json").unlink()
    models: list[dict[str, Any]] = [{"name": path.name, "folder": str(path)} for path in (folder, spoilt, bare)]
    models.append({"name": "hub", "hub": "FacebookAI/xlm-roberta-base"})
    study = load_study(str(study_file(models=models)))
    assert set(count_rows(study, Storage(tmp_path / "runs"), expand(study))) == {"own"}
    elsewhere = load_study(str(study_file(models=models[:1], data={"source": "hub"})))
    assert count_rows(elsewhere, Storage(tmp_path / "runs"), expand(elsewhere)) == {}


def test_counting_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, xlmr_sweep.modeling.memory; print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
