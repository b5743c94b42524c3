"""Variants of a study side by side. In: rows of all variants, and whose trials they share. Out: all rows of each variant.

A variant has trials of its own only where it changes something (`xlmr_sweep.study.variant_spec`). All chapters of the report but
the one of variants are of the study as declared.
"""

from __future__ import annotations

import pandas as pd

from analysis.schema import Table, as_frame
from xlmr_sweep.study.variant_spec import DECLARED

VARIANT = "variant"


def of_declared(table: Table) -> pd.DataFrame:
    """Returns the rows of the study as declared; of a table without variants, or without that one, all rows of the first."""
    frame = as_frame(table)
    if VARIANT not in frame.columns or frame.empty:
        return frame
    names = frame[VARIANT].fillna(DECLARED)
    first = DECLARED if (names == DECLARED).any() else names.iloc[0]
    return frame[names == first].reset_index(drop=True)
