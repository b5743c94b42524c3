"""The chapter of families: the gain against the size of encoders of several families."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived
from analysis.display import compact, mean_std
from analysis.figures.families import ipr_by_size
from analysis.page import Block, Section


def families_section(derived: Derived) -> Section | None:
    """Returns IPR by size and family, or None where the study's models are of one family, or of families that are not known."""
    table = derived.tables.get("families")
    if table is None:
        return None
    families = list(dict.fromkeys(table["family"]))
    text = [
        "Pooled over tasks, with the 95% bootstrap interval, against the parameters that do not grow with the vocabulary: "
        "layers, positions and head. A family is one architecture in several sizes or with several vocabularies. Encoders differ "
        "in their pre-training data as well, so a difference between two families is not one of architecture alone.",
    ]
    blocks = [Block(text=text)]
    comparisons = list(table["comparison"].drop_duplicates())
    for name in comparisons:
        part = table[table["comparison"] == name]
        figure = ipr_by_size(part, families)
        scope = {"paradigms": name.replace("/", " ")}
        blocks.append(
            Block(
                name.replace("/", " over "), [], figure, f"ipr-by-family-{comparisons.index(name)}", scope=scope, csv="families"
            )
        )
    blocks.append(Block("Models", shown=_models(table, comparisons), csv="families"))
    return Section("Families of encoders", blocks, "families")


def _models(table: pd.DataFrame, comparisons: list[str]) -> pd.DataFrame:
    cells = {(row["model"], row["comparison"]): mean_std(row) for row in table.to_dict("records")}
    models = table.drop_duplicates("model").sort_values(["num_body_parameters", "model"])
    return pd.DataFrame(
        [
            {
                "model": row["model"],
                "family": row["family"],
                "parameters without the vocabulary": compact(row["num_body_parameters"]),
                **{name.replace("/", " over "): cells.get((row["model"], name), "–") for name in comparisons},
            }
            for row in models.to_dict("records")
        ]
    )
