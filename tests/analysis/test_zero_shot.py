"""Zero-shot scores in the report: the first point of curves, and no part of a ratio unless asked."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.derive import derive
from analysis.options import Options
from analysis.page import render
from analysis.tables import from_table

Make = Callable[[dict[tuple[str, str, str], dict[int, list[float]]]], pd.DataFrame]


@pytest.fixture
def table(table_of: Make) -> pd.DataFrame:
    """Instructed 0.5 without training, then 0.6 and 0.8; prompted 0.1, then 0.4 and 0.6; zero-shot of one seed."""
    curves = {
        ("m", "instructed", "cb"): {0: [0.5], 8: [0.6, 0.6], 16: [0.8, 0.8]},
        ("m", "prompted", "cb"): {0: [0.1], 8: [0.4, 0.4], 16: [0.6, 0.6]},
        ("m", "baseline", "cb"): {8: [0.3, 0.3], 16: [0.3, 0.3]},
    }
    return table_of(curves)


def ratios(table: pd.DataFrame, *, zero_shot: bool) -> dict[str, tuple[float, int, int]]:
    ipr = derive(from_table(table), Artifacts(), Options(zero_shot=zero_shot))["ipr"].query("task == 'cb'")
    return {row["comparison"]: (row["mean"], row["num_seeds"], row["num_planned"]) for row in ipr.to_dict("records")}


def test_ratios_leave_zero_shot_out_unless_asked(table: pd.DataFrame) -> None:
    without, with_it = ratios(table, zero_shot=False), ratios(table, zero_shot=True)
    assert without["instructed/prompted"] == (pytest.approx(100 * (0.7 / 0.5 - 1)), 2, 2)
    # Areas from 0 to 16: 8 x 0.55 + 8 x 0.7, and 8 x 0.25 + 8 x 0.5.
    assert with_it["instructed/prompted"] == (pytest.approx(100 * (10 / 6 - 1)), 2, 2)
    # The baseline has no such point, so nothing changes beside it.
    assert with_it["prompted/baseline"] == without["prompted/baseline"]


def test_zero_shot_is_the_first_point_of_curves_on_a_log_axis(table: pd.DataFrame) -> None:
    results = from_table(table)
    derived = derive(results, Artifacts(), Options())
    point = derived["curves"].query("paradigm == 'prompted' and train_size == 0").iloc[0]
    assert (point["mean"], point["num_seeds"], point["num_planned"]) == (0.1, 1, 1)
    assert not len(derived["completeness"].query("missing > 0")), "no baseline and no second seed is missing at size 0"
    page = assemble(results, Artifacts(), derived, Options())
    figure = page.figures["curves-cb"]
    axis = figure["layout"]["xaxis"]
    assert (axis["type"], axis["tickvals"], axis["ticktext"]) == ("log", [4, 8, 16], ["0", "8", "16"])
    lines = {trace["name"]: trace for trace in figure["data"] if trace["meta"]["kind"] == "mean"}
    assert lines["prompted"]["x"] == [4, 8, 16]
    assert [data[4] for data in lines["prompted"]["customdata"]] == ["zero-shot", "8 examples", "16 examples"]
    assert lines["baseline"]["x"] == [8, 16]
    html = render(page, {name: table.to_csv(index=False) for name, table in derived.tables.items()})
    assert "Zero-shot scores are left out" in html


def test_both_scores_of_calibrated_trials_are_shown(table: pd.DataFrame) -> None:
    results = from_table(table.assign(score_uncalibrated=(table["score"] - 0.05).where(table["train_size"] == 0)))
    page = assemble(results, Artifacts(), derive(results, Artifacts(), Options()), Options())
    (block,) = (b for section in page.sections for b in section.blocks if "calibration" in b.title)
    assert block.shown is not None
    assert block.shown[["as it is", "calibrated"]].to_numpy().tolist() == [["0.450", "0.500"], ["0.050", "0.100"]]
