"""The chapter of the Integral Performance Ratio: a table per comparison, its tests, and figures by model and by overlap."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived
from analysis.display import interval, mean_std, p_value, plain, shown
from analysis.figures.ratios import ipr_by_model, ipr_by_overlap_figure
from analysis.options import Options
from analysis.page import Block, Section
from analysis.schema import AVERAGE
from analysis.terminal import cell_text


def ipr_section(derived: Derived, options: Options, models: list[str], tasks: list[str]) -> Section:
    """Returns the IPR of all comparisons that have a value (paper, Table 2), with intervals and tests."""
    table = derived["ipr"]
    there = table[table["num_seeds"] > 0]
    names = list(there["comparison"].drop_duplicates())
    blocks = [Block(text=[_definition(options, has_zero_shot=bool((derived["curves"]["train_size"] == 0).any()))])]
    blocks += [
        Block(
            title=name.replace("/", " over "),
            shown=ipr_matrix(table[table["comparison"] == name], models, tasks),
            scope={"paradigms": name.replace("/", " ")},
            csv="ipr",
        )
        for name in names
    ]
    if len(derived["ranks"]):
        blocks.append(_ranks(derived["ranks"], models))
    if names:
        compute = derived["compute"]
        figure = ipr_by_model(table, models, dict(zip(compute["model"], compute["num_parameters"], strict=True)))
        text = ["Pooled over tasks, with the 95% bootstrap interval. A model's marker is missing where it has no value."]
        blocks.append(Block("By model size", text, figure, "ipr-by-model", csv="ipr"))
        blocks.append(_tests(there, models))
    if len(derived["ipr_by_overlap"]):
        figure = ipr_by_overlap_figure(derived["ipr_by_overlap"], models)
        text = ["Instructed over prompted, one marker per task. A gain on a task of the instruction data is no transfer."]
        blocks.append(Block("By overlap with the instruction mixture", text, figure, "ipr-by-overlap", csv="ipr_by_overlap"))
    if len(derived["mcnemar"]):
        blocks.append(_mcnemar(derived["mcnemar"]))
    return Section("Integral Performance Ratio", blocks, "ipr")


def ipr_matrix(part: pd.DataFrame, models: list[str], tasks: list[str]) -> pd.DataFrame:
    """Returns one comparison as text, one row per model and one column per task."""
    cells = {(row["model"], row["task"]): row for row in part.to_dict("records")}
    return pd.DataFrame(
        [
            {"model": model, **{task: cell_text(cells.get((model, task))) for task in [*tasks, AVERAGE]}}
            for model in models
            if (model, AVERAGE) in cells
        ]
    )


def _ranks(table: pd.DataFrame, models: list[str]) -> Block:
    pooled = table[table["task"] == AVERAGE]
    rows = []
    for model in models:
        of_model = pooled[pooled["model"] == model].to_dict("records")
        if of_model:
            ranks = {row["paradigm"]: f"{row['mean_rank']:.2f} ({row['num_tied']} tied)" for row in of_model}
            rows.append({"model": model, **ranks, "cells": str(of_model[0]["num_ranked"])})
    text = [
        "In each cell of task, size and seed the paradigms are ranked by score, 1 for the best; equal scores share the mean of "
        "their ranks. No single task with a low baseline can decide a mean of ranks, as it can a mean of ratios. Tasks: the CSV."
    ]
    return Block("Mean rank", text, shown=pd.DataFrame(rows), csv="ranks")


def _definition(options: Options, *, has_zero_shot: bool) -> str:
    zero_shot = f" Zero-shot scores {'count as size 0' if options.zero_shot else 'are left out'}." if has_zero_shot else ""
    return (
        "Integral of the first performance curve over the integral of the second, minus 1, in percentage points: mean ± sample "
        "standard deviation over seeds. The average pools all values of all tasks. Integrated over the "
        f"{'logarithm of the ' if options.x_scale == 'log' else ''}training size by "
        f"{'the trapezoid rule' if options.rule == 'trapezoid' else 'Simpson’s rule'}, at the sizes that both curves have. "
        f"A cell with fewer values than planned says how many it has.{zero_shot}"
    )


def _tests(table: pd.DataFrame, models: list[str]) -> Block:
    pooled = table[table["task"] == AVERAGE]
    pooled = pooled.sort_values(["comparison", "model"], key=lambda names: names.map({m: i for i, m in enumerate(models)}.get))
    rows = pd.DataFrame(
        [
            {
                "comparison": row["comparison"].replace("/", " over "),
                "model": row["model"],
                "IPR": mean_std(row),
                "95% interval": interval(row["ci_low"], row["ci_high"]),
                "p": p_value(row["p"]),
                "p, Holm": p_value(row["p_holm"]),
                "values": f"{row['num_seeds']} of {row['num_planned']}",
                "left out": str(row["num_left_out"]),
                "bridged": str(row["num_bridged"]),
                "sizes": f"{row['size_low']:.0f} to {row['size_high']:.0f}",
            }
            for row in pooled.to_dict("records")
        ]
    )
    smallest = table.loc[table["task"] != AVERAGE, "p_smallest"].min()
    text = [
        "Two-sided paired permutation test (signs flipped within pairs of the same task and seed), Holm-corrected over the "
        "tests of a comparison. The interval resamples seeds inside each task, so it is about these tasks only.",
        f"Single cells have too few seeds to be tested one by one: their p could not be below {smallest:.2g}."
        if smallest >= 0.05
        else "Cells with six seeds or more are tested too; see the CSV.",
        "Left out: seeds whose curves cover another range of sizes than their cell. Bridged: seeds with a gap inside the range.",
    ]
    return Block("How sure", text, shown=rows, csv="ipr")


def _mcnemar(table: pd.DataFrame) -> Block:
    text = ["Exact test of each pair of trained models at the largest common size, on the same evaluation examples."]
    columns = {
        "comparison": ("comparison", plain), "model": ("model", plain), "task": ("task", plain), "seed": ("seed", plain),
        "train_size": ("size", plain), "num_examples": ("examples", plain), "only_first_right": ("only first right", plain),
        "only_second_right": ("only second right", plain), "p": ("p", p_value), "p_holm": ("p, Holm", p_value),
    }  # fmt: skip
    return Block("McNemar’s test on single examples", text, shown=shown(table, columns), csv="mcnemar", folded=True)
