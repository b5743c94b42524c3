"""The memory table of a dry run, and where its numbers of rows come from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from builders import make_encoder
from printed import printed

from xlmr_sweep.commands.memory_forecast import MemoryForecast, forecast_memory, memory_of_models
from xlmr_sweep.commands.memory_table import memory_parts
from xlmr_sweep.commands.vocabulary import count_rows
from xlmr_sweep.modeling.architecture import KNOWN, Architecture
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

PAPER = load_study("paper")


def test_a_dry_run_says_what_each_model_of_the_paper_needs() -> None:
    shapes = {model.name: KNOWN[str(model.hub)] for model in PAPER.models}
    found = {need.model: need for need in memory_of_models(PAPER, shapes, expand(PAPER), {"xlmr-base": 8_500})}
    assert [need.gpus_needed for need in found.values()] == [1, 1, 1, 4]
    assert (found["xlmr-base"].rows, found["xlmr-base"].rows_are) == (8_500, "measured")
    assert (found["xlmr-xl"].rows, found["xlmr-xl"].rows_are) == (32_768, "assumed")
    # Four trials of base and two of large share a GPU as the study declares them.
    assert all(need.bytes_declared / 1e9 < 80 * min(1, float(need.gpus_declared)) for need in found.values())
    # XL's starting weights have no room on its GPU. XXL is spread over four, where nothing is pinned.
    pinned = {name: need.bytes_pinned for name, need in found.items() if need.bytes_pinned}
    assert pinned == {"xlmr-xl": 4.0 * found["xlmr-xl"].compact_parameters}
    said = printed(memory_parts(MemoryForecast(PAPER, list(found.values()), [], [])))
    assert f"Host memory that each process pins for its starting weights, in GB: xlmr-xl {pinned['xlmr-xl'] / 1e9:.1f}." in said


def test_a_dry_run_says_where_rows_come_from(study_file: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "own")
    models = [{"name": "own", "folder": str(folder)}, {"name": "hub", "hub": "FacebookAI/xlm-roberta-base"}]
    study = load_study(str(study_file(models=models)))
    storage = Storage(tmp_path / "runs")
    trials = expand(study)
    counted = count_rows(study, storage, trials)["own"]
    full = Architecture.from_config(json.loads((folder / "config.json").read_text()))
    assert full is not None
    assert counted < full.vocabulary

    def said(done: set[str]) -> str:
        return printed(memory_parts(forecast_memory(study, storage, trials, done)))

    text = said(set())
    assert f"<= {counted}" in text
    assert "about 32,768" in text
    assert "About 32,768 rows are assumed" in text
    # And the bound, which nothing assumes.
    assumed = next(trial.model for trial in trials if trial.model != "own")
    (bound,) = re.findall(r"The bound, every row of the vocabulary, in GB: (.*)\.", text)
    (most,) = re.findall(rf"{assumed} ([\d.]+)", bound)
    (row,) = re.findall(rf"{assumed} .*about 32,768.*", text)
    assert float(most) > float(re.findall(r"[\d.]+", row)[-1])
    assert "own" not in bound
    # A record of one task says nothing of the other's texts; records of all say all.
    done = [trial.trial_id for trial in trials if trial.model == "own"]
    for trial_id in done:
        storage.write_json(f"records/{trial_id}.json", {"model": "own", "resolved": {"vocabulary_kept": 17}})
    assert f"<= {counted}" in said({done[0]})
    assert "<=" not in said(set(done))
