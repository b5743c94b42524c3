"""Images and LaTeX of a report, and that every figure is valid plotly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.derive import derive
from analysis.figures.style import series_marker
from analysis.images import write_images
from analysis.latex import escaped, latex_tables, write_latex
from analysis.options import Options
from analysis.page import Page
from analysis.schema import TableError
from analysis.tables import from_table

MIXTURE = {
    "name": "demo",
    "counts": {"read": 10, "after target filter": 7},
    "length_histogram": {"edges": [0, 16, 32, 64, 512], "counts": [3, 3, 1, 0]},
    "top_targets": [["yes", 4], ["no", 3]],
}
JOB = {"steps": 10, "tokens": 1000, "loss_curve": [[1, 5.0], [10, 2.0]], "num_ranks": 2, "num_gpus": 0, "wall_time_s": 60.0}


@pytest.fixture
def page(study_table: pd.DataFrame) -> Page:
    results = from_table(study_table.assign(total_time_s=10.0, num_gpus=0.5, num_ranks=1))
    found = Artifacts(mixture=MIXTURE, instructed={"base": JOB})
    options = Options(mixture_tasks=("rte",))
    return assemble(results, found, derive(results, found, options), options)


def test_every_figure_is_valid_plotly_and_has_a_table(page: Page) -> None:
    expected = {
        "curves-cb", "curves-rte", "ipr-by-model", "ipr-by-overlap", "efficiency", "seed-spread", "ours-against-paper",
        "advantage-against-ipr", "advantage-bands", "hours", "mixture-lengths", "mixture-targets", "completeness",
    }  # fmt: skip
    assert set(page.figures) == expected
    for figure in page.figures.values():
        go.Figure(figure)
    blocks = [block for section in page.sections for block in section.blocks if block.figure is not None]
    assert all(block.csv and block.title for block in blocks)


def test_figure_values_are_those_of_the_tables(study_table: pd.DataFrame, page: Page) -> None:
    results = from_table(study_table)
    derived = derive(results, Artifacts(), Options())
    pooled = derived["ipr"].query("task == 'average'").set_index(["comparison", "model"])
    traces = page.figures["ipr-by-model"]["data"]
    assert len(traces) == len(pooled) == 6
    for trace in traces:
        row = pooled.loc[(trace["legendgroup"], trace["x"][0])]
        assert trace["y"] == pytest.approx([row["mean"]])
        assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(row["ci_high"])
    # Bins of 16, 16 and 32 tokens: a bar's area is its samples.
    lengths = page.figures["mixture-lengths"]["data"][0]
    assert lengths["y"] == pytest.approx([3 / 16, 3 / 16, 1 / 32, 0])
    assert [bin_[2] for bin_ in lengths["customdata"]] == [3, 3, 1, 0]
    assert page.figures["mixture-lengths"]["layout"]["xaxis"]["range"] == [0, 64]
    assert page.figures["mixture-targets"]["data"][0]["x"] == [4, 3]


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


def test_the_examples_needed_lie_on_one_axis_for_all_models(page: Page) -> None:
    figure = page.figures["efficiency"]
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


def test_latex_escapes_what_has_a_meaning_and_sets_powers_of_ten() -> None:
    assert escaped("a_b & 50% ± 1") == r"a\_b \& 50\% $\pm$ 1"
    assert escaped("1.47 × 10¹⁶") == r"1.47 $\times$ 10$^{16}$"
    assert escaped("–") == "--"
    assert escaped("[x]*") == "{[}x]{*}"
    assert escaped("Bär ÇŁß") == r"B\"{a}r \c{C}\L{}\ss{}"
    assert escaped("模") == r"\texttt{U+6A21}"


def test_latex_tables_hold_the_numbers_and_compile(study_table: pd.DataFrame, tmp_path: Path) -> None:
    results = from_table(study_table.replace({"model": {"large": "my_model"}}))
    odd = {"model": {"base": '[é]*"|`^~\\{}#&%$', "large": "模型 🤖 Čšůőąāăż\n"}, "task": {"cb": "Ärger ÆŒøı"}}
    others = from_table(study_table.drop(index=0).replace(odd))
    other_texts = latex_tables(derive(others, Artifacts(), Options()), list(odd["model"].values()), ["Ärger ÆŒøı", "rte"])
    assert "(2 of 3)" in other_texts["ipr_prompted_over_baseline"]
    derived = derive(results, Artifacts(), Options())
    texts = latex_tables(derived, ["base", "my_model"], ["cb", "rte"])
    row = derived["ipr"].query("comparison == 'instructed/prompted' and model == 'base' and task == 'cb'").iloc[0]
    assert rf"base & {row['mean']:.1f} $\pm$ {row['std']:.1f} & " in texts["ipr_instructed_over_prompted"]
    assert r"my\_model" in texts["ipr_instructed_over_prompted"]
    paths = write_latex(texts, tmp_path)
    assert len(paths) == len(texts)
    assert all(texts["tables"].count(rf"\input{{{name}}}") == 1 for name in texts if name != "tables")
    write_latex(other_texts, tmp_path / "odd")
    for text in (*texts.values(), *other_texts.values()):
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert text.isascii()
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
        for folder in (tmp_path, tmp_path / "odd"):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:]
            assert (folder / "tables.pdf").stat().st_size > 1000


@pytest.mark.browser
@pytest.mark.slow
def test_images_are_a_png_and_an_svg_of_each_figure(page: Page, tmp_path: Path) -> None:
    if shutil.which("chromium") is None and "BROWSER_PATH" not in os.environ:
        reason = "needs chromium on the PATH"
        if os.environ.get("XLMR_SWEEP_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    figures = {"curves-a/b": page.figures["curves-cb"], "hours": page.figures["hours"]}
    paths = write_images(figures, tmp_path / "images")
    assert sorted(path.name for path in paths) == ["curves-a%2Fb.png", "curves-a%2Fb.svg", "hours.png", "hours.svg"]
    assert (tmp_path / "images" / "hours.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "images" / "hours.svg").read_text()[:200]


def test_without_a_browser_images_are_refused_in_one_clear_line(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    with pytest.raises(TableError, match=r"^--images needs Chromium or Chrome: install one, or name it in BROWSER_PATH$"):
        write_images({"hours": page.figures["hours"]}, tmp_path)
