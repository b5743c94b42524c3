"""The chapter of what is there: counts a model and paradigm, and the failures by name."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived
from analysis.page import Block, Section

SHOWN_FAILURES = 50


def completeness_section(derived: Derived) -> Section:
    """Returns the counts of planned, present, failed and missing cells, and what failed."""
    counts = derived["completeness"]
    blocks = [Block(title="Cells", shown=counts.astype(str), csv="completeness")]
    failures = derived["failures"]
    if len(failures):
        blocks.append(
            Block(
                title=f"{len(failures)} failed trials",
                text=[f"The first {SHOWN_FAILURES} are shown."] if len(failures) > SHOWN_FAILURES else [],
                shown=_failures(failures.head(SHOWN_FAILURES)),
                csv="failures",
            )
        )
    return Section("Completeness", blocks, "completeness")


def _failures(failures: pd.DataFrame) -> pd.DataFrame:
    columns = ["model", "paradigm", "task", "train_size", "seed", "error_class", "message", "host", "attempt"]
    return failures[columns].fillna("").astype(str)
