"""Figures: valid plotly, the numbers of their tables, and names that are shown letter by letter."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.derive import derive
from analysis.figures.style import series_marker
from analysis.options import Options
from analysis.page import Page
from analysis.tables import from_table


def test_every_figure_is_valid_plotly_and_has_a_table(whole_page: Page) -> None:
    expected = {
        "curves-cb", "curves-rte", "ipr-by-model", "ipr-by-overlap", "efficiency", "seed-spread", "ours-against-paper",
        "advantage-against-ipr", "advantage-bands", "hours", "mixture-lengths", "mixture-targets", "completeness",
    }  # fmt: skip
    assert set(whole_page.figures) == expected
    for figure in whole_page.figures.values():
        go.Figure(figure)
    blocks = [block for section in whole_page.sections for block in section.blocks if block.figure is not None]
    assert all(block.csv and block.title for block in blocks)


def test_figure_values_are_those_of_the_tables(study_table: pd.DataFrame, whole_page: Page) -> None:
    results = from_table(study_table)
    derived = derive(results, Artifacts(), Options())
    pooled = derived["ipr"].query("task == 'average'").set_index(["comparison", "model"])
    traces = whole_page.figures["ipr-by-model"]["data"]
    assert len(traces) == len(pooled) == 6
    for trace in traces:
        row = pooled.loc[(trace["legendgroup"], trace["x"][0])]
        assert trace["y"] == pytest.approx([row["mean"]])
        assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(row["ci_high"])
    # Bins of 16, 16 and 32 tokens: a bar's area is its samples.
    lengths = whole_page.figures["mixture-lengths"]["data"][0]
    assert lengths["y"] == pytest.approx([3 / 16, 3 / 16, 1 / 32, 0])
    assert [bin_[2] for bin_ in lengths["customdata"]] == [3, 3, 1, 0]
    assert whole_page.figures["mixture-lengths"]["layout"]["xaxis"]["range"] == [0, 64]
    assert whole_page.figures["mixture-targets"]["data"][0]["x"] == [4, 3]


def test_the_band_of_the_advantage_is_drawn_inside_what_either_curve_reaches(study_table: pd.DataFrame) -> None:
    # Of large, prompting never reaches what instruction tuning starts with.
    lifted = study_table["score"] + 0.2 * (study_table["paradigm"].eq("instructed") & study_table["model"].eq("large"))
    results = from_table(study_table.assign(score=lifted))
    derived = derive(results, Artifacts(), Options())
    figure = assemble(results, Artifacts(), derived, Options()).figures["advantage-bands"]
    table = derived["prompt_advantage"].query("method == 'per_seed' and comparison == 'instructed/prompted'")
    table = table.set_index(["model", "task"])
    lines = {(t["meta"]["model"], t["meta"]["task"], t["name"]): t["x"] for t in figure["data"]}
    for task in ("cb", "rte"):
        row = table.loc[("base", task)]
        assert lines["base", task, "both curves"] == [row["y_low"], row["y_high"]]
        assert lines["base", task, "either curve"] == [row["range_low"], row["range_high"]]
        assert row["range_low"] <= row["y_low"] < row["y_high"] <= row["range_high"]
        # Nothing in common: only the thin line, and the share says so.
        assert ("large", task, "both curves") not in lines
        assert table.loc[("large", task), "share_outside"] == 1


def test_the_examples_needed_lie_on_one_axis_for_all_models(whole_page: Page) -> None:
    figure = whole_page.figures["efficiency"]
    ranges = [axis["range"] for name, axis in figure["layout"].items() if name.startswith("xaxis")]
    assert len(ranges) == 2
    assert ranges[0] == ranges[1]
    needed = np.log10([trace["x"][0] for trace in figure["data"]])
    assert ranges[0][0] < needed.min() <= needed.max() < ranges[0][1]


def test_names_of_markup_reach_figures_letter_by_letter_and_filters_unchanged(study_table: pd.DataFrame) -> None:
    odd = {"model": {"base": "<b>", "large": "a&lt;b"}, "task": {"cb": "%{x}/<i>"}, "paradigm": {"baseline": "<s>"}}
    results = from_table(study_table.replace(odd).assign(total_time_s=1.0))
    options = Options(mixture_tasks=("rte",))
    figures = assemble(results, Artifacts(), derive(results, Artifacts(), options), options).figures
    assert len(figures) > 8
    for figure in figures.values():
        shown = json.dumps([{k: v for k, v in part.items() if k not in ("meta", "legendgroup", "offsetgroup")}
                            for part in (*figure["data"], figure["layout"])])  # fmt: skip
        assert not any(name in shown.replace("<b>&lt;b></b>", "").replace("<b>a&amp;lt;b</b>", "")
                       for name in ("<b>", "a&lt;b", "%{x}/", "<i>", "<s>"))  # fmt: skip
        for trace in figure["data"]:
            assert trace["meta"].get("model", "<b>") in ("<b>", "a&lt;b")
            assert trace["meta"].get("task", "rte") in ("%{x}/<i>", "rte")


def test_the_first_64_series_look_different() -> None:
    assert len({(marker["color"], marker["symbol"]) for marker in map(series_marker, range(64))}) == 64


def test_markers_are_open_only_where_seeds_are_missing(study_table: pd.DataFrame) -> None:
    results = from_table(study_table.drop(index=0))
    derived = derive(results, Artifacts(), Options())
    figure = assemble(results, Artifacts(), derived, Options()).figures["curves-cb"]
    symbols = {(t["meta"]["model"], t["meta"]["paradigm"]): t["marker"]["symbol"] for t in figure["data"] if "marker" in t}
    assert symbols["base", "baseline"] == ["circle-open", "circle", "circle"]
    assert not any("open" in symbol for key, many in symbols.items() for symbol in many if key != ("base", "baseline"))
