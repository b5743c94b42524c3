"""The summary in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.artifacts import Artifacts
from analysis.derive import derive
from analysis.options import Options
from analysis.summary import summary
from analysis.tables import from_table


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
