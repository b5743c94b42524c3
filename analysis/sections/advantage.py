"""The chapter of the average prompt advantage, and why the paper distrusts it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from analysis.advantage import BEST_OF_SEEDS, PER_SEED
from analysis.derive import Derived
from analysis.display import decimal, interval, mean_std, p_value, percent
from analysis.figures.bands import band_figure
from analysis.figures.ratios import advantage_against_ipr
from analysis.page import Block, Section
from analysis.schema import AVERAGE

WORDS = {
    PER_SEED: "per seed, pooled as the paper's Table 3",
    BEST_OF_SEEDS: "best of seeds, as Scao and Rush",
}


def advantage_section(derived: Derived, models: list[str], tasks: list[str]) -> Section | None:
    """Returns both kinds of prompt advantage with their bands of scores (paper, appendix A). Without any it returns None."""
    table = derived["prompt_advantage"]
    there = table[table["mean"].notna() | table["share_outside"].notna()]
    if there.empty:
        return None
    text = [
        "How many fewer training examples the first paradigm needs for the same score, on average over the scores that both "
        "reach. It is positive if the first needs fewer.",
        "The paper distrusts this measure because it looks only at that band of scores: a model that improves beyond the "
        "other’s best gains nothing by it. So each cell shows in brackets the share of the two curves’ range outside the band. "
        "If values are missing or have no band, it also shows how many there are.",
    ]
    blocks = [Block(text=text)]
    for method, words in WORDS.items():
        for comparison in there["comparison"].drop_duplicates():
            part = there[(there["method"] == method) & (there["comparison"] == comparison)]
            if len(part):
                title = f"{comparison.replace('/', ' over ')}, {words}"
                folded = comparison != "instructed/prompted"
                shown, scope = _matrix(part, models, tasks), {"paradigms": comparison.replace("/", " ")}
                blocks.append(Block(title, scope=scope, shown=shown, csv="prompt_advantage", folded=folded))
    per_seed = there[there["method"] == PER_SEED]
    bands = band_figure(per_seed, models, tasks)
    if bands["data"]:
        why = [
            "Instructed over prompted, mean over seeds. The advantage is measured only on the thick line. Where the thin line "
            "goes beyond it, one paradigm reaches scores that the other never reaches, and that does not count."
        ]
        blocks.append(Block("The band of scores that counts", why, bands, "advantage-bands", csv="prompt_advantage"))
    both = per_seed[(per_seed["comparison"] == "instructed/prompted") & (per_seed["task"] != AVERAGE)]
    if both["mean"].notna().any():
        figure = advantage_against_ipr(both, derived["ipr"], models)
        why = ["One marker per model and task, instructed over prompted. The redder, the more of the curves is ignored."]
        blocks.append(Block("Advantage against IPR", why, figure, "advantage-against-ipr", csv="prompt_advantage"))
    blocks += [_bands(there[there["method"] == method], models, words) for method, words in WORDS.items()]
    return Section("Average prompt advantage", blocks, "advantage")


def _matrix(part: pd.DataFrame, models: list[str], tasks: list[str]) -> pd.DataFrame:
    cells = {(row["model"], row["task"]): row for row in part.to_dict("records")}
    rows = []
    for model in models:
        if (model, AVERAGE) in cells:
            texts = {task: _cell(cells.get((model, task))) for task in [*tasks, AVERAGE]}
            rows.append({"model": model, **texts})
    return pd.DataFrame(rows)


def _cell(row: dict[Hashable, Any] | None) -> str:
    if row is None or pd.isna(row["share_outside"]):
        return "–"
    planned = row["num_planned"]
    short = "" if pd.isna(planned) or row["num_seeds"] == planned else f"{row['num_seeds']} of {planned}, "
    return f"{mean_std(row)} ({short}{percent(row['share_outside'])})"


def _bands(table: pd.DataFrame, models: list[str], words: str) -> Block:
    order = {model: i for i, model in enumerate(models)}
    table = table.sort_values("model", key=lambda names: names.map(order), kind="stable")
    rows = pd.DataFrame(
        [
            {
                "comparison": row["comparison"].replace("/", " over "),
                "model": row["model"],
                "task": row["task"],
                "advantage": mean_std(row),
                "95% interval": interval(row["ci_low"], row["ci_high"]),
                "p, Holm": p_value(row["p_holm"]),
                "values": str(row["num_seeds"]),
                "lowest score": decimal(3)(row["y_low"]),
                "highest score": decimal(3)(row["y_high"]),
                "outside": percent(row["share_outside"]),
            }
            for row in table.to_dict("records")
        ]
    )
    return Block(f"Bands and intervals, {words}", shown=rows, csv="prompt_advantage", folded=True)
