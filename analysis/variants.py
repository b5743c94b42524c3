"""Variants of a study side by side. In: rows of all variants, and whose trials they share. Out: all rows of each variant.

A variant has trials of its own only where it changes something (`xlmr_sweep.study.variant_spec`). All chapters of the report but
the one of variants are of the study as declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from analysis.schema import MAX_NAMED, Table, as_frame, checked
from xlmr_sweep.study.seen_settings import sharing
from xlmr_sweep.study.variant_spec import DECLARED

if TYPE_CHECKING:
    from xlmr_sweep.study.spec import Study

VARIANT = "variant"
OWNED = ("model", "paradigm", "task")
"""A variant has either all trials of a model, paradigm and task, or none."""


def of_declared(table: Table, study: Study | None = None) -> pd.DataFrame:
    """Returns the rows of the study as declared; all rows of a table without variants.

    Args:
        table: rows of all variants.
        study: whose rows they are. Without it, where no row is of the study as declared, those of the first variant are returned.
    """
    frame = as_frame(table)
    if VARIANT not in frame.columns or frame.empty:
        return frame
    names = frame[VARIANT].fillna(DECLARED)
    is_there = study is not None or (names == DECLARED).any()
    return frame[names == (DECLARED if is_there else names.iloc[0])].reset_index(drop=True)


def doubtful_sharing(variants: Mapping[str, pd.DataFrame]) -> list[str]:
    """Says of a bare table where its variants may be something else than they are shown as, a line each.

    Args:
        variants: what `rows_of_variants` returns without a study.
    """
    lines = []
    first = next(iter(variants), DECLARED)
    if first != DECLARED:
        lines.append(
            f"the table has no row of the study as declared, so all chapters but that of variants are of the variant {first}"
        )
    for name, rows in variants.items():
        own, shared = (
            set(zip(*(rows.loc[rows["is_own"] == is_own, column] for column in ("model", "task", "paradigm")), strict=True))
            for is_own in (True, False)
        )
        # Prompts change all models of a task, and instruction tuning changes all tasks.
        asked = {(task, paradigm) for _, task, paradigm in own}
        is_tuned = any(paradigm == "instructed" and (model, task, "prompted") in shared for model, task, paradigm in own)
        odd = sorted(cell for cell in shared if cell[1:] in asked or (is_tuned and cell[2] == "instructed"))
        if odd:
            more = f" and {len(odd) - MAX_NAMED} more" if len(odd) > MAX_NAMED else ""
            lines.append(
                f"variant {name}: the table has none of its rows of {', '.join(map(' '.join, odd[:MAX_NAMED]))}{more}, "
                "so those of the study as declared count for it; if they are not done, or are those of another variant, as in a "
                "grid, give the study's storage"
            )
    return lines


def own_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns those of a variant's rows that are of its own trials."""
    return rows[rows["is_own"]].drop(columns="is_own")


def rows_of_variants(table: Table, study: Study | None = None) -> dict[str, pd.DataFrame]:
    """Returns for each variant all rows that it has, its own and those that it shares; empty for a table without variants.

    Args:
        table: rows of all variants.
        study: says which trials are shared. Without it a variant that has no rows of a model, paradigm and task is taken to share
            those of the study as declared.
    """
    frame = as_frame(table)
    if VARIANT not in frame.columns or frame.empty:
        return {}
    frame = frame.assign(**{VARIANT: frame[VARIANT].fillna(DECLARED).astype(str)})
    there = set(zip(*(frame[column].astype(str) for column in OWNED), frame[VARIANT], strict=True))
    declared = study.variant_names if study is not None and study.variants else ()
    cells = {key[:-1] for key in there}
    found = {}
    for name in declared or dict.fromkeys([*frame[VARIANT][frame[VARIANT] == DECLARED], *frame[VARIANT]]):
        if declared:
            assert study is not None
            owners = {cell: sharing(study, name, *cell) for cell in cells}
        else:
            owners = {cell: name if (*cell, name) in there else DECLARED for cell in cells}
        owner = [owners[cell] for cell in zip(*(frame[column].astype(str) for column in OWNED), strict=True)]
        rows = checked(frame[frame[VARIANT] == owner])
        found[name] = rows.assign(is_own=rows[VARIANT] == name)
    return found
