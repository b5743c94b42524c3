"""The gain against the size of models: who is of which family, what is drawn, and when there is a chapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import pytest

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.derive import Derived, derive
from analysis.families import families_of_models
from analysis.options import Options
from analysis.page import Section
from analysis.tables import from_table
from xlmr_sweep.modeling.architecture import KNOWN, Architecture

KINDS = {"base": ("xlm-roberta", 86e6), "large": ("xlm-roberta-xl", 304e6), "modern": ("modernbert", 111e6)}
SMALL = Architecture.from_config(
    {
        "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
        "vocab_size": 30, "max_position_embeddings": 20, "type_vocab_size": 2,
    }
)  # fmt: skip


def table_with_kinds(formula_table: Callable[[Sequence[str]], pd.DataFrame], models: Sequence[str]) -> pd.DataFrame:
    rows = formula_table(models)
    return rows.assign(
        family=rows["model"].map(lambda name: KINDS[name][0]), num_body_parameters=rows["model"].map(lambda name: KINDS[name][1])
    )


def chapter(rows: pd.DataFrame) -> tuple[Derived, Section | None]:
    results, options = from_table(rows, "test", "test"), Options()
    derived = derive(results, Artifacts(), options)
    page = assemble(results, Artifacts(), derived, options)
    return derived, next((section for section in page.sections if section.anchor == "families"), None)


def test_families_are_those_of_the_records_and_else_of_the_shapes(
    formula_table: Callable[[Sequence[str]], pd.DataFrame],
) -> None:
    rows = table_with_kinds(formula_table, ("base", "large"))
    rows.loc[rows["model"] == "large", ["family", "num_body_parameters"]] = None
    assert SMALL is not None
    kinds = families_of_models(rows, {"base": SMALL, "large": KNOWN["FacebookAI/xlm-roberta-large"], "small": SMALL})
    found = {row["model"]: (row["family"], row["num_body_parameters"]) for row in kinds.to_dict("records")}
    assert found["base"] == ("XLM-R", 86_000_000)
    # Two layers of 8 and 16, three norms, 20 positions, 2 types, the head's product: all but 30 rows and their bias.
    assert found["small"] == ("BERT", SMALL.num_parameters - 30 * 9)
    assert found["large"][0] == "XLM-R"
    assert found["large"][1] == pytest.approx(304e6, rel=0.01)


def test_a_chapter_shows_each_model_by_size_and_each_family_by_colour(
    formula_table: Callable[[Sequence[str]], pd.DataFrame],
) -> None:
    derived, section = chapter(table_with_kinds(formula_table, ("base", "large", "modern")))
    assert section is not None
    pooled = derived["ipr"][(derived["ipr"]["task"] == "average") & (derived["ipr"]["comparison"] == "instructed/prompted")]
    titles = [block.title for block in section.blocks if block.figure is not None]
    assert titles == ["instructed over prompted", "prompted over baseline", "instructed over baseline"]
    figure = next(block.figure for block in section.blocks if block.title == "instructed over prompted")
    assert figure is not None
    points = {trace["meta"]["model"]: (trace["x"][0], trace["y"][0], trace["name"]) for trace in figure["data"]}
    means = pooled.set_index("model")["mean"]
    assert points == {
        "base": (86_000_000, means["base"], "XLM-R"),
        "large": (304_000_000, means["large"], "XLM-R"),
        "modern": (111_000_000, means["modern"], "ModernBERT"),
    }
    colours = {trace["name"]: trace["marker"]["color"] for trace in figure["data"]}
    assert len(set(colours.values())) == len(colours) == 2
    assert figure["layout"]["xaxis"]["type"] == "log"
    shown = section.blocks[-1].shown
    assert shown is not None
    assert list(shown["model"]) == ["base", "modern", "large"]
    assert list(shown["parameters without the vocabulary"]) == ["86M", "111M", "304M"]


def test_there_is_no_chapter_of_one_family_or_of_families_that_are_not_known(
    formula_table: Callable[[Sequence[str]], pd.DataFrame],
) -> None:
    for rows in (table_with_kinds(formula_table, ("base", "large")), formula_table(("base", "modern"))):
        derived, section = chapter(rows)
        assert section is None
        assert "families" not in derived.tables
