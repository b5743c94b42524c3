"""Several prompts in the report: other chapters are of the first, and the chapter shows mean and spread over prompts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.derive import Derived, derive
from analysis.options import Options
from analysis.page import render
from analysis.tables import Results, from_table, load
from xlmr_sweep.storage.collect import collect, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

LEVELS = {"": 0.5, "z-first": 0.5, "better": 0.6, "worse": 0.4}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """RTE by three prompts: instructed trials score half as much again as prompted ones; seeds move all scores alike."""
    study = Study.model_validate(
        {
            "name": "asked",
            "models": [{"name": "base", "hub": "FacebookAI/xlm-roberta-base"}],
            "tasks": ["cb", "rte"],
            "sizes": [8, 32],
            "seeds": [0, 1],
            "prompts": {
                "rte": [
                    {"name": "z-first"},
                    {"name": "better", "prompt": "{premise} {hypothesis}?"},
                    {"name": "worse", "prompt": "{premise}?"},
                ]
            },
        }
    )
    storage = Storage(tmp_path / "asked")
    write_study(storage, study)
    for trial in expand(study):
        score = 0.3 if trial.paradigm == "baseline" else LEVELS[trial.prompt] * (1.5 if trial.paradigm == "instructed" else 1)
        score *= 1 + trial.seed / 20
        write_record(storage, {**trial.as_dict(), "score": score, "metric": "accuracy", "spec": {}, "resolved": {}})
    write_results(storage, collect(storage, study))
    return load(str(tmp_path / "asked"))


@pytest.fixture
def derived(results: Results) -> Derived:
    return derive(results, Artifacts(), Options())


def test_other_chapters_are_those_of_the_first_prompt(results: Results, derived: Derived) -> None:
    assert set(results.rows.loc[results.rows["paradigm"] != "baseline"].query("task == 'rte'")["prompt"]) == {"z-first"}
    assert len(results.rows) == len(results.planned) == 3 * 2 * 2 * 2
    plain = from_table(results.rows.drop(columns="prompt"))
    without = derive(plain, Artifacts(), Options())
    pd.testing.assert_frame_equal(derived["ipr"], without["ipr"])
    assert "ipr_by_prompt" not in without.tables
    assert "prompts" not in [section.anchor for section in assemble(plain, Artifacts(), without, Options()).sections]
    assert len(derived["trials"]) == 4 * (3 + 2 * 3 + 1)


def test_scores_and_ratios_have_mean_and_spread_over_prompts(derived: Derived) -> None:
    scores = derived["score_spread"].set_index("paradigm").loc["prompted"]
    # Of seeds 0 and 1: means 0.5, 0.6 and 0.4, each times 1.025.
    assert (scores["num_prompts"], scores["mean"], scores["std"]) == (3, pytest.approx(0.5125), pytest.approx(0.1025))
    assert (scores["lowest"], scores["highest"]) == (pytest.approx(0.41), pytest.approx(0.615))
    assert scores["seed_std"] == pytest.approx(0.5 * 0.05 / 2**0.5)
    ratios = derived["ipr_spread"].set_index("comparison")
    assert ratios.loc["instructed/prompted", ["mean", "std"]].tolist() == [pytest.approx(50), pytest.approx(0, abs=1e-9)]
    # 0.4, 0.5 and 0.6 over 0.3.
    of = ratios.loc["prompted/baseline"]
    assert (of["num_prompts"], of["mean"], of["std"]) == (3, pytest.approx(100 * 2 / 3), pytest.approx(100 / 3))
    by_prompt = derived["ipr_by_prompt"]
    assert set(by_prompt["task"]) == {"rte"}
    assert by_prompt.query("comparison == 'prompted/baseline'")["prompt"].tolist() == ["z-first", "better", "worse"]
    assert (by_prompt["num_seeds"] == 2).all()
    assert (by_prompt["num_planned"] == 2).all()


def test_the_chapter_shows_them(results: Results, derived: Derived) -> None:
    page = assemble(results, Artifacts(), derived, Options())
    section = next(section for section in page.sections if section.anchor == "prompts")
    blocks = {block.title: block.shown for block in section.blocks if block.shown is not None}
    spread = blocks["IPR over prompts, percentage points"].set_index("comparison").loc["prompted/baseline"]
    assert spread.drop(["model", "task"]).to_dict() == {
        "prompts": "3", "mean": "66.7", "spread over prompts": "33.3", "lowest": "33.3", "highest": "100.0",
        "spread over seeds": "0.0",
    }  # fmt: skip
    assert list(blocks["IPR under each prompt, percentage points"]["prompt"])[:3] == ["z-first", "better", "worse"]
    assert "0.512 ± 0.018" in set(blocks["Score under each prompt"]["score"])
    html = render(page, {name: table.to_csv(index=False) for name, table in derived.tables.items()})
    assert "spread over prompts" in html


def test_a_size_that_a_prompt_lacks_counts_for_none(results: Results) -> None:
    assert results.every is not None
    lacking = results.every.query("not (prompt == 'worse' and paradigm == 'prompted' and train_size == 32 and seed == 0)").copy()
    lacking.loc[lacking["train_size"] == 32, "score"] /= 2
    scores = derive(from_table(lacking), Artifacts(), Options())["scores_by_prompt"].query("paradigm == 'prompted'")
    # Seed 0 counts at size 8 alone, seed 1 at both.
    expected = [(level + 1.05 * level * 0.75) / 2 for level in (0.5, 0.6, 0.4)]
    assert scores["mean"].tolist() == pytest.approx(expected)


def test_columns_of_a_table_from_elsewhere_with_one_row_a_cell_are_no_axes(study_table: pd.DataFrame) -> None:
    table = study_table.assign(prompt=[f"text {i}" for i in range(len(study_table))], variant="mine")
    results = from_table(table)
    assert (len(results.rows), results.every, results.variants) == (len(study_table), None, {})


@pytest.mark.parametrize("kind", ["whole numbers", "a category"])
def test_names_of_prompts_and_variants_may_have_any_type(kind: str, results: Results, tmp_path: Path) -> None:
    assert results.every is not None
    names = {"z-first": 1, "better": 2, "worse": 3}
    numbered = results.every.assign(prompt=results.every["prompt"].map(names))
    if kind == "a category":
        numbered["prompt"] = numbered["prompt"].map({number: str(number) for number in names.values()}).astype("category")
    numbered.to_parquet(tmp_path / "t.parquet")
    found = load(tmp_path / "t.parquet").rows.query("task == 'rte'")
    assert found.groupby("paradigm").size().to_dict() == {"baseline": 4, "prompted": 4, "instructed": 4}
    assert set(found["prompt"].dropna()) == {"1"}
    by_variant = from_table(numbered.rename(columns={"prompt": "variant"})).variants
    assert list(by_variant) == ["declared", "1", "2", "3"]
    assert len(by_variant["1"].query("task == 'rte'")) == 12
