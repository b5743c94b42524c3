"""What a dry run works out and says, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from printed import printed
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.dry_run import make_forecast
from xlmr_sweep.commands.dry_run_tables import forecast_parts
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import KNOWN
from xlmr_sweep.scheduling.operations import Operations
from xlmr_sweep.storage.collect import collect
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

PAPER = load_study("paper")


def test_a_dry_run_of_the_paper_sums_up_and_shows_the_papers_table_beside(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "none")
    trials = expand(PAPER)
    plan = make_forecast(PAPER, storage, trials, collect(storage, PAPER))
    assert plan.paper_hours == pytest.approx((470, 548))
    assert plan.hours[0] < 470 / 10
    assert sum(part.hours for part in plan.by_model.values()) == pytest.approx(plan.hours[0])
    assert sum(part.hours for part in plan.by_task.values()) == pytest.approx(plan.hours[0])
    assert plan.whole.lower_bound_s == pytest.approx(sum(plan.hours) * 3600 / 8)
    assert plan.whole.lower_bound_s <= plan.whole.makespan_s <= 1.02 * plan.whole.lower_bound_s
    assert plan.whole.disk["instruction-tuned weights"] == 4 * sum(KNOWN[str(model.hub)].num_parameters for model in PAPER.models)
    some = make_forecast(PAPER, storage, [t for t in trials if t.model == "xlmr-base"], collect(storage, PAPER))
    assert some.paper_hours == pytest.approx((6, 12))
    assert some.hours[0] == plan.by_model["xlmr-base"].hours
    # A model's own line is the plan of a command for it alone, and a task's takes the jobs of all models whose weights it needs.
    base, cb = plan.by_model["xlmr-base"], plan.by_task["cb"]
    assert (base.makespan_s, base.lower_bound_s) == (some.whole.makespan_s, some.whole.lower_bound_s)
    assert base.disk == some.whole.disk
    some = make_forecast(PAPER, storage, [t for t in trials if t.task == "cb"], collect(storage, PAPER))
    assert (cb.makespan_s, cb.lower_bound_s) == (some.whole.makespan_s, some.whole.lower_bound_s)
    assert set(some.jobs) == set(plan.jobs)
    # Weights that are kept are as many as trials: 315 of each model.
    assert "trained weights" not in plan.whole.disk
    keeping = PAPER.replaced(finetune=PAPER.finetune.model_copy(update={"save_weights": True}))
    kept = make_forecast(keeping, storage, trials, collect(storage, keeping)).whole.disk
    assert kept["trained weights"] == 315 * 4 * sum(KNOWN[str(model.hub)].num_parameters for model in PAPER.models)


def test_a_dry_run_counts_each_cells_operations_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of ten simulations asks 100,000 times how long something takes."""
    storage, trials, asked = Storage(tmp_path / "none"), expand(PAPER), Counter[str]()
    for name in ("trial", "job"):
        counted = getattr(Operations, name)

        def counting(self: Operations, *args: Any, name: str = name, counted: Any = counted) -> Any:
            asked[name] += 1
            return counted(self, *args)

        monkeypatch.setattr(Operations, name, counting)
    make_forecast(PAPER, storage, trials, collect(storage, PAPER))
    cells = len({(trial.model, trial.task, trial.train_size) for trial in trials})
    # A cell has an amount of the cluster. The paper's hours ask once for each trial, and once for each cell to know the mean.
    assert 0 < asked["trial"] <= 2 * cells + len(trials)
    assert 0 < asked["job"] <= 2 * len(PAPER.models)


def test_a_dry_run_says_whose_speeds_it_assumes(study_file: Callable[..., Path], tmp_path: Path) -> None:
    storage = Storage(tmp_path / "none")
    some = [trial for trial in expand(PAPER) if trial.model == "xlmr-xxl"]
    said = " ".join(printed(forecast_parts(make_forecast(PAPER, storage, some, collect(storage, PAPER)), storage)).split())
    assert "one NVIDIA H100 80GB HBM3 (measured 2026-11-27, commit 3f770d1" in said
    assert "GPUs of a gang exchange 300 GB/s, which is assumed" in said
    assert "at 40% of 989 TFLOP/s, which is assumed and was not measured" in said
    assert "The paper's GPU-hours for the same (table 1): 384 of fine-tuning, 384 of instruction tuning" in said
    some = [trial for trial in expand(PAPER) if trial.model == "xlmr-base" and trial.paradigm == "baseline"]
    said = " ".join(printed(forecast_parts(make_forecast(PAPER, storage, some, collect(storage, PAPER)), storage)).split())
    assert "gang" not in said
    assert "989" not in said
    # On CPUs no card is assumed.
    study = load_study(str(study_file()))
    text = printed(forecast_parts(make_forecast(study, storage, expand(study), collect(storage, study)), storage))
    assert "H100" not in text
    assert "paper" not in text


def test_a_dry_run_says_what_it_knows(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(models=[{"name": "tiny", "folder": str(tmp_path / "encoder"), "gpus": "auto"}])))
    storage = Storage(tmp_path / "runs")
    said = printed(forecast_parts(make_forecast(study, storage, expand(study), collect(storage, study)), storage))
    assert "24 trials: 0 done, 24 to run" in said
    assert "by operations at an assumed speed" in said
    assert "measured first" in said
    assert "CPU-hours expected" in said
    assert "Disk in the storage" in said
    assert "One model or task alone" in said


def test_a_dry_run_refuses_examples_that_a_run_would_refuse(study_file: Callable[..., Path], tmp_path: Path) -> None:
    request = Request(str(study_file()), str(tmp_path / "runs"))
    assert entry.dry_run(request, Console(quiet=True)) == 0
    with pytest.raises(StudyError, match="sizes: 25 is above the 24 training examples of task cb"):
        entry.dry_run(replace(request, sizes=(25,)), Console(quiet=True))
    (tmp_path / "superglue" / "COPA" / "val.jsonl").write_text("{oops\n")
    with pytest.raises(StudyError, match=r"COPA/val\.jsonl: line 1: not JSON"):
        entry.dry_run(request, Console(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_reads_a_tokenizer_that_pads_and_cuts(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """As those of sentence encoders do by their own files."""
    from tokenizers import Tokenizer

    path = study_file()
    file = Path(load_study(str(path)).models[0].folder or "") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(file))
    assert entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(quiet=True)) == 0
