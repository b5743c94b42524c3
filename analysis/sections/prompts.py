"""The chapter of prompts: how much scores and ratios depend on the prompt, beside how much they depend on the seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.derive import Derived
from analysis.display import count, decimal, interval, mean_std, shown
from analysis.page import Block, Section
from analysis.prompts import PROMPT


def prompts_section(derived: Derived) -> Section | None:
    """Returns mean and spread over prompts, or None where no task has several."""
    ratios, scores = derived.tables.get("ipr_by_prompt"), derived.tables.get("scores_by_prompt")
    if ratios is None or scores is None or ratios.empty:
        return None
    text = [
        "All other chapters are of each task's first prompt. Here each prompt of a task counts as one value. The spread over "
        "prompts is the sample standard deviation of their means; the spread over seeds beside it is the mean of each prompt's "
        "own. A gain that is smaller than the spread over prompts is a gain of some prompts."
    ]
    score, ratio = decimal(3), decimal(1)
    by_score = {"model": ("model", str), "paradigm": ("paradigm", str), "task": ("task", str), **_spread(score)}
    by_ratio = {"comparison": ("comparison", str), "model": ("model", str), "task": ("task", str), **_spread(ratio)}
    blocks = [
        Block(text=text),
        Block("Scores, mean over sizes", shown=shown(derived["score_spread"], by_score), csv="score_spread"),
        Block("IPR over prompts, percentage points", shown=shown(derived["ipr_spread"], by_ratio), csv="ipr_spread"),
        Block("IPR under each prompt, percentage points", shown=_ratios(ratios[ratios["num_seeds"] > 0]), csv="ipr_by_prompt"),
        Block("Score under each prompt", shown=_scores(scores), csv="scores_by_prompt", folded=True),
    ]
    return Section("Prompts", blocks, "prompts")


def _spread(text: Any) -> dict[str, tuple[str, Any]]:
    return {
        "num_prompts": ("prompts", count),
        "mean": ("mean", text),
        "std": ("spread over prompts", text),
        "lowest": ("lowest", text),
        "highest": ("highest", text),
        "seed_std": ("spread over seeds", text),
    }


def _ratios(table: pd.DataFrame) -> pd.DataFrame:
    rows = table.to_dict("records")
    told = {"IPR": [mean_std(row) for row in rows], "95% interval": [interval(row["ci_low"], row["ci_high"]) for row in rows]}
    return table[["comparison", "model", "task", PROMPT]].reset_index(drop=True).assign(**told)


def _scores(table: pd.DataFrame) -> pd.DataFrame:
    return table[["model", "paradigm", "task", PROMPT]].assign(score=[mean_std(row, 3) for row in table.to_dict("records")])
