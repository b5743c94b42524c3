"""The chapter of what is there: a map of the cells, counts per model and paradigm, and the failures by name."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived
from analysis.figures.study import completeness_map
from analysis.page import Block, Section

SHOWN_FAILURES = 50


def completeness_section(derived: Derived, models: list[str], tasks: list[str]) -> Section:
    """Returns the counts of planned, present, failed and missing cells, and the failures."""
    counts = derived["completeness"].astype(str)
    figure = completeness_map(derived["cells"], models, tasks)
    blocks = [
        Block("Seeds that are there, by point", figure=figure, name="completeness", csv="cells"),
        Block("Cells", shown=counts, csv="completeness", folded=True),
    ]
    failures = derived["failures"]
    if len(failures):
        text = [f"The first {SHOWN_FAILURES} are shown."] if len(failures) > SHOWN_FAILURES else []
        shown = _failures(failures.head(SHOWN_FAILURES))
        blocks.append(Block(f"{len(failures)} failed trials", text, shown=shown, csv="failures"))
    return Section("Completeness", blocks, "completeness")


def _failures(failures: pd.DataFrame) -> pd.DataFrame:
    columns = ["model", "paradigm", "task", "train_size", "seed", "error_class", "message", "host", "attempt"]
    return failures[columns].astype(object).fillna("").astype(str)
