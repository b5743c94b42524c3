"""Data efficiency, seed spread, overlap with the mixture, and the summary in words: all by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.artifacts import Artifacts
from analysis.curves import curves
from analysis.derive import derive
from analysis.display import compact, decimal, interval, p_value, power
from analysis.efficiency import data_efficiency, seed_spread
from analysis.options import Options
from analysis.overlap import ipr_by_overlap, mixture_overlap
from analysis.summary import summary
from analysis.tables import from_table
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


def test_examples_needed_are_interpolated_on_the_monotone_curve(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {
            ("m", "prompted", "t"): {8: [0.5], 16: [0.6], 32: [0.58]},
            ("m", "instructed", "t"): {8: [0.55], 16: [0.65], 32: [0.7]},
            ("m", "baseline", "t"): {8: [0.4], 16: [0.45], 32: [0.5]},
            ("m", "dipping", "t"): {8: [0.5], 16: [0.4], 32: [0.7]},
        }
    )
    found = data_efficiency(curves(table)).set_index("paradigm")
    assert found["target_score"].tolist() == [0.6] * 4
    assert found.loc["prompted", "examples_needed"] == 16
    assert found.loc["instructed", "examples_needed"] == pytest.approx(12)
    assert np.isnan(found.loc["baseline", "examples_needed"])
    # Its best so far is 0.5 up to 16 examples, then rises to 0.7 at 32.
    assert found.loc["dipping", "examples_needed"] == pytest.approx(24)


def test_a_given_score_is_asked_of_every_task(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {("m", "prompted", "t"): {8: [0.5], 16: [0.6]}, ("m", "instructed", "t"): {8: [0.6], 16: [0.8]},
         ("m", "prompted", "u"): {8: [0.9], 16: [0.9]}}
    )  # fmt: skip
    found = data_efficiency(curves(table), 0.7).set_index(["task", "paradigm"])
    assert (set(found["target_of"]), set(found["target_score"])) == ({"given"}, {0.7})
    assert np.isnan(found.loc[("t", "prompted"), "examples_needed"])
    assert found.loc[("t", "instructed"), "examples_needed"] == pytest.approx(12)
    assert found.loc[("u", "prompted"), "examples_needed"] == 8


def test_a_score_that_the_smallest_size_reaches_needs_no_more(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of({("m", "prompted", "t"): {8: [0.5], 16: [0.6]}, ("m", "instructed", "t"): {8: [0.9], 16: [0.9]}})
    found = data_efficiency(curves(table)).set_index("paradigm")
    assert found.loc["instructed", "examples_needed"] == 8


def test_spread_is_the_mean_standard_deviation_over_tasks(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {("m", "prompted", "a"): {8: [0.5, 0.6]}, ("m", "prompted", "b"): {8: [0.5, 0.8]}, ("m", "prompted", "c"): {8: [0.5]}}
    )
    row = seed_spread(curves(table)).iloc[0]
    assert row["mean_std"] == pytest.approx((0.1 + 0.3) / 2 / np.sqrt(2))
    assert (row["max_std"], row["num_tasks"]) == (pytest.approx(0.3 / np.sqrt(2)), 2)


def test_overlap_is_known_for_xp3_and_else_only_from_the_reader() -> None:
    tasks = ["cb", "wic"]
    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "h/m"}], "sizes": [8], "seeds": [0]})
    assert mixture_overlap(tasks, study)["overlap"].tolist() == ["held out", "in the mixture"]
    without = study.replaced(instructions=study.instructions.model_copy(update={"exclude": ("*wic*",)}))
    assert mixture_overlap(tasks, without)["overlap"].tolist() == ["held out", "not known"]
    demo = load_study("demo")
    names = ["boolq", "cb", "rte", "own"]
    assert mixture_overlap(names, demo)["overlap"].tolist() == ["in the mixture", "related", "held out", "not known"]
    other_tasks = demo.replaced(data=demo.data.model_copy(update={"source": "hub"}))
    assert set(mixture_overlap(names, other_tasks)["overlap"]) == {"not known"}
    assert mixture_overlap(tasks)["overlap"].tolist() == ["not known"] * 2
    assert mixture_overlap(tasks, None, ["cb"])["overlap"].tolist() == ["in the mixture", "held out"]


def test_only_tasks_of_known_overlap_are_compared(study_table: pd.DataFrame) -> None:
    derived = derive(from_table(study_table), Artifacts(), Options())
    assert derived["ipr_by_overlap"].empty
    cells = ipr_by_overlap(derived["ipr"], mixture_overlap(["cb", "rte"], None, ["cb"]))
    assert cells.groupby("overlap").size().to_dict() == {"held out": 6, "in the mixture": 6}


def test_the_summary_says_who_gains_how_sure_and_what_is_missing(study_table: pd.DataFrame) -> None:
    results = from_table(study_table.drop(index=[0, 1]))
    derived = derive(results, Artifacts(), Options())
    text = summary(derived, ["base", "large"])
    row = derived["ipr"].query("comparison == 'instructed/prompted' and task == 'average' and model == 'large'").iloc[0]
    line = next(line for line in text if line.startswith("large: "))
    assert line.startswith(f"large: {row['mean']:+.1f}% (95% interval {row['ci_low']:.1f} to {row['ci_high']:.1f}, 6 values")
    # Six pairs and two models: no p can be below 2 / 64 x 2, so that nothing was found says nothing.
    assert row["p_holm"] == 2 * 2 / 64
    assert line.endswith("too few values to tell among 2 tests, Holm-corrected p = 0.062)")
    assert text[-1].startswith("106 of 108 planned trials have a result; 2 have not run.")
    assert any("Table 2" in line and "large" in line for line in text)


def test_the_summary_tells_what_is_no_difference_from_what_cannot_be_told(study_table: pd.DataFrame) -> None:
    base = study_table[study_table["model"] == "base"]
    up_and_down = base["score"] + 0.1 * base["paradigm"].eq("instructed") * np.where(base["seed"] == 0, 1, -1)
    for scores, verdict in ((base["score"], "6 values, distinguishable"), (up_and_down, "not distinguishable from zero")):
        lines = summary(derive(from_table(base.assign(score=scores)), Artifacts(), Options()), ["base"])
        assert verdict in next(line for line in lines if line.startswith("base: "))


def test_a_summary_of_many_models_stays_short(formula_table: Callable[..., pd.DataFrame]) -> None:
    table = formula_table(["base"])
    names = [f"m-{number}" for number in range(15)]
    derived = derive(from_table(pd.concat([table.assign(model=name) for name in names])), Artifacts(), Options())
    lines = summary(derived, names)
    assert [line.partition(":")[0] for line in lines[1:13]] == names[:12]
    assert lines[13] == "And 3 more models, in the tables below."


def test_a_summary_of_nothing_says_only_what_is_missing(study_table: pd.DataFrame) -> None:
    results = from_table(study_table[study_table["paradigm"] == "prompted"])
    assert summary(derive(results, Artifacts(), Options()), ["base"]) == ["All 36 planned trials have a result."]


def test_numbers_are_shown_without_a_sign_on_zero_and_missing_ones_as_a_dash() -> None:
    assert decimal(1)(-0.04) == "0.0"
    assert decimal(1)(float("nan")) == "–"
    assert interval(-0.01, 2.345) == "0.0 to 2.3"
    assert power(1.47e16) == "1.47 × 10¹⁶"
    assert power(8192) == "8,192"
    assert [compact(value) for value in (278_295_186, 3.48e9, 114_278, 999.6, 12)] == ["278M", "3.48B", "114k", "1000", "12"]
    assert p_value(0.00001) == "< 0.0001"
    assert p_value(0.0312) == "0.031"
