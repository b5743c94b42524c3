"""The gain against the size of encoders of several families. In: results, shapes, IPR. Out: a row a comparison and model.

Family and size are those of the records; of records that do not tell, and of models without one, those of the model's shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.schema import AVERAGE, Table, as_frame
from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.families import FAMILIES

KIND_COLUMNS = ["model", "family", "num_body_parameters"]
VALUE_COLUMNS = ["mean", "std", "ci_low", "ci_high", "num_seeds", "num_planned"]


def families_of_models(rows: Table, shapes: Mapping[str, Architecture]) -> pd.DataFrame:
    """Returns family and parameters without the vocabulary of each model of which both are known.

    Args:
        rows: results, which may have the columns `family` and `num_body_parameters`.
        shapes: shapes of models whose rows do not say.

    Returns:
        `KIND_COLUMNS`; the family by its name for readers.
    """
    frame = as_frame(rows)
    found = {
        model: (shape.model_type, shape.num_body_parameters)
        for model, shape in shapes.items()
        if shape.model_type and shape.exact
    }
    if set(KIND_COLUMNS) <= set(frame.columns):
        told = frame.dropna(subset=KIND_COLUMNS).drop_duplicates("model", keep="last")
        found |= {row["model"]: (row["family"], row["num_body_parameters"]) for row in told.to_dict("records")}
    named = [(model, _title(kind), int(size)) for model, (kind, size) in found.items()]
    return pd.DataFrame(named, columns=KIND_COLUMNS)


def ipr_by_family(ipr: Table, kinds: Table) -> pd.DataFrame:
    """Returns the pooled IPR of each comparison and model beside family and size.

    Args:
        ipr: the table of `analysis.ipr.ipr_table` with its intervals.
        kinds: what `families_of_models` returns.

    Returns:
        `comparison`, `KIND_COLUMNS` and `VALUE_COLUMNS`, in the order of the IPR table, smaller models first. Empty where the
        models are of one family.
    """
    table = as_frame(ipr)
    pooled = table[(table["task"] == AVERAGE) & (table["num_seeds"] > 0)]
    found = pooled[["comparison", "model", *VALUE_COLUMNS]].merge(as_frame(kinds), on="model")
    if found["family"].nunique() < 2:
        found = found.iloc[:0]
    places = {name: place for place, name in enumerate(table["comparison"].drop_duplicates())}
    found = found.assign(place=found["comparison"].map(places))
    ordered = found.sort_values(["place", "num_body_parameters", "model"], ignore_index=True)
    return ordered[["comparison", *KIND_COLUMNS, *VALUE_COLUMNS]]


def _title(kind: str) -> str:
    return (FAMILIES[kind].title if kind in FAMILIES else "") or kind
