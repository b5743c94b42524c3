"""All tables of the report. In: `Results` and options. Out: named DataFrames, one for each CSV file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from analysis import paper
from analysis.advantage import PER_SEED, advantage_of_pairs, advantage_table
from analysis.artifacts import Artifacts
from analysis.completeness import cell_status, completeness
from analysis.compute import compute_table, device_hours, pretraining
from analysis.curves import curves
from analysis.efficiency import data_efficiency, seed_spread
from analysis.example_bootstrap import with_curve_intervals
from analysis.families import families_of_models, ipr_by_family
from analysis.intervals import with_intervals
from analysis.ipr import ipr_of_pairs, ipr_table
from analysis.mcnemar import mcnemar_table
from analysis.mixture import mixture_tables
from analysis.options import Options
from analysis.overlap import ipr_by_overlap, mixture_overlap
from analysis.pairs import paired_curves
from analysis.paper_comparison import compare_with_paper
from analysis.paradigm_ranks import rank_table
from analysis.predictions import PredictionFiles, TaskPredictions, read_predictions
from analysis.prompts import ipr_by_prompt, prompt_spread, prompts_of, scores_by_prompt
from analysis.provenance import provenance
from analysis.schema import PARADIGMS, ordered
from analysis.significance import with_tests
from analysis.tables import Results
from analysis.variant_tables import ipr_by_variant
from analysis.variants import doubtful_sharing, of_declared
from analysis.zero_shot import trained, with_zero_shot
from xlmr_sweep.modeling.architecture import KNOWN


@dataclass(frozen=True)
class Derived:
    """The tables of one report, by the name of their CSV file."""

    tables: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)
    """What a reader must know first, one line each: why a table is empty, what was left out."""
    predictions: Mapping[str, TaskPredictions] = field(default_factory=dict)
    """Of single examples, by task, where they were asked for."""

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Returns the table of that name."""
        return self.tables[name]


def derive(results: Results, found: Artifacts, options: Options, files: PredictionFiles | None = None) -> Derived:
    """Returns every table of the report.

    Args:
        results: what `analysis.tables.load` returns.
        found: what the storage keeps beside its records.
        options: the reader's choices.
        files: the storage's predictions, where the caller needs them too.

    Raises:
        TableError: if an option does not fit the results.
    """
    rows, planned = results.rows, results.planned
    predictions, num_unusable = read_predictions(results, options.examples, files)
    points = with_curve_intervals(curves(rows, planned), rows, predictions)
    tables = {
        **_comparisons(results, options),
        "ranks": rank_table(rows),
        "curves": points,
        "completeness": completeness(rows, planned, results.failures),
        "cells": cell_status(rows, planned, results.failures),
        "failures": results.failures.drop(columns="traceback"),
        "efficiency": data_efficiency(points, options.target_score),
        "seed_spread": seed_spread(points),
        "mcnemar": mcnemar_table(predictions),
        "trials": rows,
    }
    tables |= _compute(results, found, tables) | mixture_tables(found)
    by_family = ipr_by_family(tables["ipr"], families_of_models(rows, found.architectures))
    if len(by_family):
        tables["families"] = by_family
    if results.every is not None:
        tables |= {"trials": results.every, **_prompts(results, of_declared(results.every, results.study), options)}
    if results.variants:
        tables["ipr_by_variant"] = ipr_by_variant(results.variants, results.planned[results.planned["train_size"] > 0], options)
    tables["provenance"] = provenance(results, found, options)
    notes = _notes(results, tables, options)
    if num_unusable:
        notes.append(f"predictions of {num_unusable} trials do not give their recorded score or examples and are not used")
    return Derived(tables, notes, predictions if options.examples else {})


def _comparisons(results: Results, options: Options) -> dict[str, pd.DataFrame]:
    rows = with_zero_shot(results.rows) if options.zero_shot else trained(results.rows)
    # Zero-shot adds no seed to a cell: its one trial stands for all.
    planned = results.planned[results.planned["train_size"] > 0]
    pairs = paired_curves(rows)
    per_seed = ipr_of_pairs(pairs, options.rule, options.x_scale)
    ipr = with_tests(with_intervals(ipr_table(per_seed, planned), per_seed, "ipr"), per_seed, "ipr")
    advantages = advantage_of_pairs(pairs)
    both = advantage_table(rows, planned, advantages)
    pooled = both[both["method"] == PER_SEED]
    tested = with_tests(with_intervals(pooled, advantages, "advantage"), advantages, "advantage")
    overlap = mixture_overlap(ordered(results.planned["task"]), results.study, options.mixture_tasks)
    return {
        "ipr": ipr,
        "ipr_per_seed": per_seed,
        "prompt_advantage": pd.concat([both[both["method"] != PER_SEED], tested], ignore_index=True),
        "prompt_advantage_per_seed": advantages,
        "mixture_overlap": overlap,
        "ipr_by_overlap": ipr_by_overlap(ipr, overlap),
    }


def _prompts(results: Results, rows: pd.DataFrame, options: Options) -> dict[str, pd.DataFrame]:
    names = prompts_of(rows, results.study)
    if not names:
        return {}
    ratios = ipr_by_prompt(rows, names, results.planned[results.planned["train_size"] > 0], options)
    scores = scores_by_prompt(rows, names)
    spreads = {"ipr_spread": prompt_spread(ratios), "score_spread": prompt_spread(scores)}
    return {"ipr_by_prompt": ratios, "scores_by_prompt": scores, **spreads}


def _compute(results: Results, found: Artifacts, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    models = _paper_models(results)
    shapes = {**{model: KNOWN[_HUB[model]] for model in models if results.study is None}, **found.architectures}
    steps = pretraining(shapes, found.pretrained, models)
    hours = device_hours(results.rows, found.instructed)
    compute = compute_table(steps, hours)
    compared = compare_with_paper(tables["ipr"], tables["prompt_advantage"], compute, steps, models)
    return {"pretraining": steps, "hours": hours, "compute": compute, "paper_comparison": compared}


_HUB = dict(zip(paper.MODELS, KNOWN, strict=True))


def _paper_models(results: Results) -> list[str]:
    """Returns the models of the paper. They have its name and, if a study says where weights come from, its hub id."""
    if results.study is not None:
        return [model.name for model in results.study.models if _HUB.get(model.name, "") == model.hub]
    return [model for model in paper.MODELS if model in set(results.rows["model"])]


def _notes(results: Results, tables: dict[str, pd.DataFrame], options: Options) -> list[str]:
    rows, notes = results.rows, []
    per_seed = tables["ipr_per_seed"]
    num_undefined = int((per_seed["ipr"].isna() & (per_seed["num_sizes"].astype("int64") >= 2)).sum())
    if results.study is None:
        notes += doubtful_sharing(results.variants)
    if rows.empty:
        notes.append(f"no trial of {len(results.planned)} planned ones has a result yet")
    elif rows["train_size"].nunique() == 1:
        notes.append(f"only one training size, {rows['train_size'].iloc[0]}: no integral over sizes, so IPR is undefined")
    elif per_seed.empty:
        found = sorted(rows["paradigm"].unique())
        hint = "" if set(found) <= set(PARADIGMS) else f"; --paradigm OURS=THEIRS reads others as {', '.join(PARADIGMS)}"
        notes.append(
            f"no model and task has two paradigms with the same seed (found: {', '.join(found)}), so there is no IPR{hint}"
        )
    elif not (per_seed["num_sizes"].astype("int64") >= 2).any():
        notes.append("no pair of curves has two training sizes in common, so IPR is undefined")
    elif options.rule == "trapezoid" and not per_seed["used"].any():
        notes.append("every curve to be divided by is 0 at all its sizes, so IPR is undefined")
    if options.rule == "simpson" and num_undefined:
        notes.append(
            f"{num_undefined} pairs of curves have no IPR: their divisor is 0, or Simpson's rule counts a size negatively, as it "
            "does where a step between sizes is more than twice its neighbour; --x-scale log or --rule trapezoid may do"
        )
    arithmetic = sorted(rows["precision"].dropna().unique()) if "precision" in rows else []
    if len(arithmetic) > 1:
        notes.append(f"trials ran in {' and '.join(arithmetic)}: set finetune.precision, so that all run in the same")
    absent = sorted(set(options.mixture_tasks or ()) - set(results.planned["task"]))
    if absent:
        notes.append(f"--mixture-tasks: no results of {', '.join(absent)} (tasks: {', '.join(ordered(results.planned['task']))})")
    if results.not_here:
        how = "so records are matched by their declared settings, not by the contents of folders, and not checked for being stale"
        notes.append(f"{results.not_here}; {how}")
    if results.num_stale:
        notes.append(f"{results.num_stale} stale records are counted as missing; the next run makes them again")
    if results.corrupt:
        notes.append(f"{len(results.corrupt)} corrupt records are left out: {', '.join(results.corrupt[:5])}")
    if results.num_other_settings:
        notes.append(f"{results.num_other_settings} records of other settings are in the storage and not shown")
    return notes
