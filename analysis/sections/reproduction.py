"""The chapter that compares a reproduction with the paper's Tables 1 to 4."""

from __future__ import annotations

import pandas as pd

from analysis import paper
from analysis.derive import Derived
from analysis.display import decimal, power
from analysis.figures.ratios import ours_against_paper
from analysis.page import Block, Section


def reproduction_section(derived: Derived, models: list[str]) -> Section | None:
    """Returns our numbers, the paper's and the difference, with its inconsistencies. Without a model of the paper: None."""
    table = derived["paper_comparison"]
    if table.empty:
        return None
    blocks = []
    if (table["source"] == "Table 2").any():
        text = ["IPR of instructed over prompted, a marker per task. The large one is the average; bars are standard deviations."]
        figure = ours_against_paper(table, models)
        blocks.append(Block("Ours against the paper’s Table 2", text, figure, "ours-against-paper", csv="paper_comparison"))
    for source in table["source"].drop_duplicates():
        notes = paper.FOOTNOTES[source.lower().replace(" ", "_")]
        title = f"{source}: ours, theirs and the difference"
        rows = _rows(table[table["source"] == source])
        blocks.append(Block(title, notes, shown=rows, csv="paper_comparison", folded=source in ("Table 2", "Table 3")))
    return Section("Beside the paper", blocks, "paper")


def _rows(part: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "quantity": row["quantity"],
                "model": row["model"],
                **({} if pd.isna(row["task"]) else {"task": row["task"]}),
                "ours": _number(row["ours"], row["ours_std"]),
                "paper": _number(row["paper"], row["paper_std"]),
                "difference": _number(row["difference"]),
            }
            for row in part.to_dict("records")
        ]
    )


def _number(value: float, std: float = float("nan")) -> str:
    if abs(value) >= 1e6:
        return power(value)
    return decimal(1)(value) + ("" if pd.isna(std) else f" ± {std:.1f}")
