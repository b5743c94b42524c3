"""Variants in the report: shared trials are filled in, other chapters are of the first variant, differences are paired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.compare import compare_runs
from analysis.derive import derive
from analysis.options import Options
from analysis.page import render
from analysis.schema import TableError
from analysis.tables import from_table, load
from analysis.variants import rows_of_variants
from xlmr_sweep.storage.artifacts import record_file
from xlmr_sweep.storage.collect import collect, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

TARGETS = {"name": "targets-only", "instruct": {"mask_rate": 0}}
WORDS = {"name": "words", "template": {"label_words": {"rte": ["true", "false"]}}}


def level(variant: str, paradigm: str, task: str) -> float:
    """A score for each kind of trial, the same at all sizes."""
    base = {"baseline": 0.4, "prompted": 0.5, "instructed": 0.6}[paradigm]
    if "targets-only" in variant and paradigm == "instructed":
        base += 0.1
    return base + (0.05 if "words" in variant and task == "rte" and paradigm != "baseline" else 0.0)


@pytest.fixture
def varied() -> Study:
    return Study.model_validate(
        {
            "name": "varied",
            "models": [{"name": "base", "hub": "FacebookAI/xlm-roberta-base"}],
            "tasks": ["cb", "rte"],
            "sizes": [8, 32],
            "seeds": [0, 1, 2],
            "variants": {"grid": {"loss": [{"name": "both"}, TARGETS], "words": [{"name": "usual"}, WORDS]}},
        }
    )


@pytest.fixture
def storage(varied: Study, tmp_path: Path) -> Storage:
    """All trials have a record. Seeds move all scores alike."""
    storage = Storage(tmp_path / "varied")
    write_study(storage, varied)
    for trial in expand(varied):
        score = level(trial.variant, trial.paradigm, trial.task) * (1 + trial.seed / 10)
        write_record(storage, {**trial.as_dict(), "score": score, "metric": "accuracy", "spec": {}, "resolved": {}})
    write_results(storage, collect(storage, varied))
    return storage


def test_other_chapters_are_those_of_the_study_as_declared(varied: Study, storage: Storage, tmp_path: Path) -> None:
    results = load(str(tmp_path / "varied"))
    assert set(results.rows["variant"]) == {"declared"}
    assert len(results.rows) == len(results.planned) == 3 * 2 * 2 * 3
    tables = derive(results, Artifacts(), Options()).tables
    plain = results.rows.drop(columns="variant")
    without = derive(from_table(plain), Artifacts(), Options()).tables
    pd.testing.assert_frame_equal(tables["ipr"], without["ipr"])
    assert "ipr_by_variant" not in without
    assert len(tables["trials"]) == len(expand(varied))


def test_a_variant_is_filled_with_the_trials_that_it_shares(varied: Study, storage: Storage, tmp_path: Path) -> None:
    results = load(str(tmp_path / "varied"))
    assert list(results.variants) == list(varied.variant_names)
    for name, rows in results.variants.items():
        assert len(rows) == 3 * 2 * 2 * 3
        for row in rows.to_dict("records"):
            assert row["score"] == pytest.approx(level(name, row["paradigm"], row["task"]) * (1 + row["seed"] / 10))
    # The prompts of `words` were asked of the base weights by an earlier variant.
    last = results.variants["targets-only+words"]
    assert set(last.query("paradigm == 'prompted' and task == 'rte'")["variant"]) == {"both+words"}
    assert not last.query("paradigm == 'baseline'")["is_own"].any()


def test_ratios_and_paired_differences_by_variant(storage: Storage, tmp_path: Path) -> None:
    table = derive(load(str(tmp_path / "varied")), Artifacts(), Options())["ipr_by_variant"].set_index(
        ["variant", "comparison", "task"]
    )
    gain = 100 * (0.7 / 0.5 - 1), 100 * (0.6 / 0.5 - 1)
    of = table.loc[("targets-only+usual", "instructed/prompted", "cb")]
    assert (of["mean"], of["num_seeds"], of["num_planned"]) == (pytest.approx(gain[0]), 3, 3)
    # Seeds differ, and their differences do not: the interval is that of the pairs.
    assert (of["difference"], of["difference_std"]) == (pytest.approx(gain[0] - gain[1]), pytest.approx(0, abs=1e-9))
    assert of["difference_low"] == pytest.approx(of["difference_high"]) == pytest.approx(of["difference"])
    declared = table.loc["declared"]
    assert declared["difference"].isna().all()
    assert len(declared) == 9
    # Shared whole: the ratio of prompted over baseline.
    assert set(table.loc["targets-only+usual"].index.get_level_values("comparison")) == {
        "instructed/prompted",
        "instructed/baseline",
    }


def test_the_chapter_shows_each_variant_and_is_not_there_without(storage: Storage, tmp_path: Path) -> None:
    results = load(str(tmp_path / "varied"))
    derived = derive(results, Artifacts(), Options())
    page = assemble(results, Artifacts(), derived, Options())
    section = next(section for section in page.sections if section.anchor == "variants")
    matrix = next(block.shown for block in section.blocks if block.title == "instructed over prompted")
    assert matrix is not None
    assert matrix["variant"].tolist() == ["declared", "both+words", "targets-only+usual", "targets-only+words"]
    assert matrix["cb"].tolist()[::2] == ["20.0 ± 0.0", "40.0 ± 0.0"]
    difference = next(block.shown for block in section.blocks if block.title == "instructed over prompted, difference")
    assert difference is not None
    assert difference["variant"].tolist() == ["both+words", "targets-only+usual", "targets-only+words"]
    assert difference["cb"].tolist()[1] == "20.0 (20.0 to 20.0)"
    figures = [block.figure for block in section.blocks if block.title == "instructed over prompted, by variant"]
    assert figures[0] is not None
    assert figures[0]["data"][0]["x"] == matrix["variant"].tolist()
    html = render(page, {name: table.to_csv(index=False) for name, table in derived.tables.items()})
    assert "targets-only+words" in html
    plain = from_table(results.rows.drop(columns="variant"))
    page = assemble(plain, Artifacts(), derive(plain, Artifacts(), Options()), Options())
    assert "variants" not in [section.anchor for section in page.sections]


def test_a_bare_table_with_the_column_shares_with_the_declared_one(study_table: pd.DataFrame) -> None:
    own = study_table[study_table["paradigm"] == "instructed"]
    table = pd.concat([own.assign(variant="other", score=own["score"] / 2), study_table.assign(variant="declared")])
    results = from_table(table)
    assert len(results.rows) == len(study_table)
    other = rows_of_variants(table)["other"]
    assert len(other) == len(study_table)
    assert other.groupby("paradigm")["is_own"].all().to_dict() == {"baseline": False, "instructed": True, "prompted": False}
    assert rows_of_variants(study_table) == {}


def test_two_runs_are_compared_variant_by_variant(
    storage: Storage, varied: Study, tmp_path: Path, make_moved: Callable[[], Path]
) -> None:
    found = compare_runs(tmp_path / "varied" / "results.parquet", make_moved())
    assert len(found.cells) == len(expand(varied))
    moved = found.cells[found.cells["difference"].abs() > 1e-9]
    assert set(moved["variant"]) == {"targets-only+usual"}
    assert set(moved["paradigm"]) == {"instructed"}
    assert len(found.lone) == 0
    verdicts = found.groups.set_index(["variant", "paradigm", "task"])["num_moved"]
    assert verdicts[("targets-only+usual", "instructed", "cb")] == 6
    assert verdicts[("declared", "instructed", "cb")] == 0


@pytest.fixture
def make_moved(storage: Storage, tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        table = pd.read_parquet(tmp_path / "varied" / "results.parquet")
        table.loc[table["variant"] == "targets-only+usual", "score"] += 0.01
        table.to_parquet(tmp_path / "moved.parquet")
        return tmp_path / "moved.parquet"

    return make


def without_declared(storage: Storage, varied: Study, variant: str) -> None:
    """Leaves the trials that were done if only that variant was asked for, and baselines and prompts of the study as declared."""
    for trial in expand(varied):
        if trial.variant != variant and (trial.variant != "declared" or trial.paradigm == "instructed"):
            storage.delete(record_file(trial.trial_id))
    write_results(storage, collect(storage, varied))


def test_trials_of_a_variant_are_not_those_of_the_study_as_declared_before_it_is_finished(
    storage: Storage, varied: Study, tmp_path: Path
) -> None:
    without_declared(storage, varied, "targets-only+usual")
    of_storage, of_table = load(tmp_path / "varied"), load(tmp_path / "varied" / "results.parquet")
    for results in (of_storage, of_table):
        assert set(results.rows["paradigm"]) == {"baseline", "prompted"}
        assert set(results.variants["targets-only+usual"]["paradigm"]) == {"baseline", "prompted", "instructed"}
        ipr = derive(results, Artifacts(), Options()).tables["ipr"]
        assert set(ipr.dropna(subset="mean")["comparison"]) == {"prompted/baseline"}
    # Of the study as declared nothing at all is done.
    for trial in expand(varied):
        if trial.variant == "declared":
            storage.delete(record_file(trial.trial_id))
    write_results(storage, collect(storage, varied))
    of_storage, of_table = load(tmp_path / "varied"), load(tmp_path / "varied" / "results.parquet")
    assert len(of_storage.rows) == 0
    assert derive(of_storage, Artifacts(), Options()).notes == ["no trial of 36 planned ones has a result yet"]
    said = "so all chapters but that of variants are of the variant targets-only+usual"
    assert any(said in note for note in derive(of_table, Artifacts(), Options()).notes)


def test_of_a_bare_table_rows_that_a_variant_may_still_lack_are_named(storage: Storage, varied: Study, tmp_path: Path) -> None:
    def noted() -> list[str]:
        notes = derive(load(tmp_path / "varied" / "results.parquet"), Artifacts(), Options()).notes
        return [note.partition(", so")[0] for note in notes if "variant" in note]

    # In a grid a variant may share trials with another one that is not the study as declared. A table does not tell.
    in_grid = "variant targets-only+words: the table has none of its rows of base cb instructed"
    assert noted() == [in_grid]
    for trial in expand(varied):
        if (trial.variant, trial.task) == ("targets-only+usual", "rte"):
            storage.delete(record_file(trial.trial_id))
    write_results(storage, collect(storage, varied))
    assert noted() == ["variant targets-only+usual: the table has none of its rows of base rte instructed", in_grid]
    assert not any("variant" in note for note in derive(load(tmp_path / "varied"), Artifacts(), Options()).notes)


def test_variants_that_only_one_run_has_are_not_compared_with_something_else(storage: Storage, tmp_path: Path) -> None:
    table = pd.read_parquet(tmp_path / "varied" / "results.parquet")
    for name, rows in (("one", table["variant"] == "targets-only+usual"), ("other", table["variant"] == "both+words")):
        table[rows].to_parquet(tmp_path / f"{name}.parquet")
    table[table["variant"] == "targets-only+usual"].drop(columns="variant").to_parquet(tmp_path / "plain.parquet")
    for other in ("other", "plain"):
        with pytest.raises(TableError, match=r"all rows are of variants that the other run lacks \(targets-only\+usual\)"):
            compare_runs(tmp_path / "one.parquet", tmp_path / f"{other}.parquet")
    assert len(compare_runs(tmp_path / "one.parquet", tmp_path / "varied" / "results.parquet").cells) == 12
    assert len(compare_runs(tmp_path / "plain.parquet", tmp_path / "plain.parquet").cells) == 12
