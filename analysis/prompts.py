"""Several prompts of a task. In: rows of all prompts. Out: those of each task's first prompt, and tables of what prompts change.

All chapters of the report but the one of prompts are of each task's first prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from analysis.intervals import with_intervals
from analysis.ipr import ipr_of_pairs, ipr_table
from analysis.options import Options
from analysis.pairs import COMPARISONS, paired_curves
from analysis.schema import AVERAGE, Table, as_frame, checked
from analysis.zero_shot import trained, with_zero_shot

if TYPE_CHECKING:
    from xlmr_sweep.study.spec import Study

PROMPT = "prompt"
VALUES = ["mean", "std", "ci_low", "ci_high", "num_seeds", "num_planned"]
IPR_COLUMNS = ["comparison", "model", "task", PROMPT, *VALUES]
SPREAD = ["num_prompts", "mean", "std", "lowest", "highest", "seed_std"]
SCORE_KEYS = ["model", "paradigm", "task"]


def prompts_of(table: Table, study: Study | None = None) -> dict[str, list[str]]:
    """Returns the names of the prompts of each task that has some, in the study's order, else in the table's."""
    frame = as_frame(table)
    if PROMPT not in frame.columns:
        return {}
    named = frame[frame[PROMPT].notna() & (frame[PROMPT] != "")]
    found = {str(task): list(dict.fromkeys(part[PROMPT].astype(str))) for task, part in named.groupby("task", sort=False)}
    if study is None:
        return found
    return {task: [*study.prompt_names(task)] if task in study.prompts else names for task, names in found.items()}


def of_first_prompt(table: Table, study: Study | None = None) -> pd.DataFrame:
    """Returns the rows of each task's first prompt, and those that see no prompt; all rows of a table without prompts."""
    return of_prompts(table, {task: names[0] for task, names in prompts_of(table, study).items()})


def of_prompts(table: Table, wanted: Mapping[str, str]) -> pd.DataFrame:
    """Returns the rows of one prompt of each task, by the task's name, and those that see no prompt."""
    frame = as_frame(table)
    if not wanted or PROMPT not in frame.columns:
        return frame
    asked = frame[PROMPT].fillna("")
    return frame[(asked == "") | (asked == frame["task"].map(wanted))].reset_index(drop=True)


def ipr_by_prompt(table: Table, prompts: dict[str, list[str]], planned: Table, options: Options) -> pd.DataFrame:
    """Returns the ratios under each prompt of each task, in percentage points.

    Args:
        table: rows of all prompts of one variant.
        prompts: what `prompts_of` returns.
        planned: the cells of one prompt; all have the same.
        options: the reader's choices.

    Returns:
        `IPR_COLUMNS`. Tasks with one prompt are left out.
    """
    frame, plan = as_frame(table), as_frame(planned)
    found = []
    for task, names in prompts.items():
        of_task = frame[frame["task"] == task]
        for name in names if len(names) > 1 else ():
            rows = checked(of_prompts(of_task, {task: name}))
            counted = with_zero_shot(rows) if options.zero_shot else trained(rows)
            per_seed = ipr_of_pairs(paired_curves(counted), options.rule, options.x_scale)
            ratios = with_intervals(ipr_table(per_seed, plan[plan["task"] == task]), per_seed, "ipr")
            found.append(ratios[ratios["task"] != AVERAGE].assign(**{PROMPT: name}))
    if not found:
        return pd.DataFrame(columns=IPR_COLUMNS)
    whole = pd.concat(found, ignore_index=True)
    whole["place"] = whole["comparison"].map({name: place for place, name in enumerate(COMPARISONS)})
    return whole.sort_values(["place", "model", "task"], kind="stable", ignore_index=True)[IPR_COLUMNS]


def prompt_spread(by_prompt: Table) -> pd.DataFrame:
    """Returns mean and spread over prompts of what has a mean and a spread over seeds under each prompt.

    Args:
        by_prompt: one row a prompt, with `mean`, `std`, `num_seeds` and the column `prompt`.

    Returns:
        The columns that name a group, and `SPREAD`: `std` is the sample standard deviation of the prompts' means, `seed_std` the
        mean of their standard deviations over seeds. A prompt without values does not count.
    """
    frame = as_frame(by_prompt)
    keys = [name for name in ("comparison", "model", "paradigm", "task") if name in frame.columns]
    groups = frame[frame["num_seeds"] > 0].groupby(keys, sort=False)
    spread = groups["mean"].agg(["size", "mean", "std", "min", "max"]).set_axis(SPREAD[:-1], axis=1)
    return spread.assign(seed_std=groups["std"].mean()).reset_index()


def scores_by_prompt(table: Table, prompts: dict[str, list[str]]) -> pd.DataFrame:
    """Returns the score under each prompt: of each seed the mean over sizes, of these mean and spread. `baseline` sees no prompt.

    Sizes that some prompt of the seed lacks do not count, so that prompts are compared at the same sizes.
    """
    columns = [*SCORE_KEYS, PROMPT, "mean", "std", "num_seeds"]
    several = {task for task, names in prompts.items() if len(names) > 1}
    frame = as_frame(table)
    frame = frame[frame["task"].isin(several) & (frame["train_size"] > 0)]
    frame = frame[frame[PROMPT].fillna("") != ""] if len(frame) else frame
    if frame.empty:
        return pd.DataFrame(columns=columns)
    wanted = frame["task"].map({task: len(names) for task, names in prompts.items()})
    is_whole = frame.groupby([*SCORE_KEYS, "train_size", "seed"])[PROMPT].transform("nunique") == wanted
    per_seed = frame[is_whole].groupby([*SCORE_KEYS, PROMPT, "seed"], sort=False)["score"].mean().reset_index()
    scores = per_seed.groupby([*SCORE_KEYS, PROMPT], sort=False)["score"].agg(["mean", "std", "size"]).reset_index()
    return scores.rename(columns={"size": "num_seeds"})[columns]
