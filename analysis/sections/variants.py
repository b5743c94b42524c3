"""The chapter of variants: the ratio under each, and how far it is from that of the study as declared."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from analysis.derive import Derived
from analysis.display import MISSING, decimal, interval
from analysis.figures.variants import ipr_by_variant_figure
from analysis.page import Block, Section
from analysis.schema import AVERAGE, ordered
from analysis.terminal import cell_text

CSV = "ipr_by_variant"


def variants_section(derived: Derived, models: list[str], tasks: list[str]) -> Section | None:
    """Returns IPR by variant, or None where the study has none."""
    table = derived.tables.get(CSV)
    if table is None:
        return None
    table = table[table["num_seeds"] > 0]
    text = [
        "A variant changes the study in what its declaration names and in nothing else. All other chapters are of the first "
        "variant, which is the study as declared. Trials that a variant does not change are shared, and a comparison of two "
        "shared paradigms is not shown again.",
    ]
    blocks = [Block(text=text)]
    comparisons = list(table["comparison"].drop_duplicates())
    for number, name in enumerate(comparisons):
        part, scope = table[table["comparison"] == name], {"paradigms": name.replace("/", " ")}
        if part["variant"].nunique() < 2:
            continue
        title = name.replace("/", " over ")
        figure = ipr_by_variant_figure(part, models)
        blocks.append(Block(title, shown=_matrix(part, models, tasks, cell_text), scope=scope, csv=CSV))
        about = ["Pooled over tasks, with the 95% bootstrap interval."]
        blocks.append(Block(f"{title}, by variant", about, figure, f"ipr-by-variant-{number}", scope=scope, csv=CSV))
        about = [
            "The variant's ratio minus the first one's, paired by model, task and seed, with the 95% bootstrap interval. "
            "An interval that holds 0 is no difference that this study can see."
        ]
        later = part[part["difference"].notna()]
        blocks.append(
            Block(f"{title}, difference", about, shown=_matrix(later, models, tasks, _difference), scope=scope, csv=CSV)
        )
    return Section("Variants", blocks, "variants")


def _matrix(
    part: pd.DataFrame, models: list[str], tasks: list[str], text: Callable[[dict[Hashable, Any] | None], str]
) -> pd.DataFrame:
    cells = {(row["variant"], row["model"], row["task"]): row for row in part.to_dict("records")}
    return pd.DataFrame(
        [
            {"variant": variant, "model": model, **{task: text(cells.get((variant, model, task))) for task in [*tasks, AVERAGE]}}
            for variant in part["variant"].drop_duplicates()
            for model in ordered(part["model"], models)
        ]
    )


def _difference(row: dict[Hashable, Any] | None) -> str:
    if row is None or pd.isna(row["difference"]):
        return MISSING
    bounds = interval(row["difference_low"], row["difference_high"])
    return decimal(1)(row["difference"]) + ("" if bounds == MISSING else f" ({bounds})")
