"""The chapter of performance curves: one figure per task, the examples that a score needs, and the spread of seeds."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived
from analysis.display import decimal, plain, shown
from analysis.efficiency import GIVEN
from analysis.figures.curves import curve_figure, spread_figure
from analysis.figures.study import efficiency_figure
from analysis.page import Block, Section
from analysis.schema import ordered


def curve_section(derived: Derived, models: list[str], tasks: list[str]) -> Section:
    """Returns the curves of every task that has a result (paper, figures 3 and 5), and the data efficiency."""
    table = derived["curves"]
    present = set(table.loc[table["num_seeds"] > 0, "task"])
    text = [
        "Mean score over seeds with a band of one sample standard deviation. A line breaks where a point has no seed. An open "
        "marker has fewer seeds than planned. Hover to see the 95% bootstrap interval and what it resamples."
    ]
    if (table["train_size"] == 0).any():
        text.append(
            "Size 0 is zero-shot: the weights before any training, one score for all seeds. It stands one place before the "
            "smallest size."
        )
    blocks = [Block(text=text)]
    blocks += [
        Block(
            title=task,
            figure=curve_figure(table, task, models),
            name=f"curves-{task}",
            scope={"task": task},
            csv="curves",
        )
        for task in ordered(present, tasks)
    ]
    efficiency = derived["efficiency"]
    if len(efficiency):
        blocks.append(
            Block(
                title="Data efficiency",
                text=[_score_asked_for(efficiency)],
                figure=efficiency_figure(efficiency, models, tasks),
                name="efficiency",
                csv="efficiency",
            )
        )
        columns = {
            "model": ("model", plain), "task": ("task", plain), "paradigm": ("paradigm", plain),
            "target_score": ("score asked for", decimal(3)), "examples_needed": ("examples needed", decimal(1)),
            "best_score": ("best score", decimal(3)), "largest_size": ("with at most", plain),
        }  # fmt: skip
        blocks.append(Block("Data efficiency, as a table", shown=shown(efficiency, columns), csv="efficiency", folded=True))
    blocks += _calibration(derived["trials"])
    if len(derived["seed_spread"]):
        figure = spread_figure(derived["seed_spread"], models)
        text = ["Standard deviation over seeds, mean over tasks."]
        blocks.append(Block("Spread of seeds", text, figure, "seed-spread", csv="seed_spread"))
    return Section("Performance curves", blocks, "curves")


def _calibration(trials: pd.DataFrame) -> list[Block]:
    """Returns the table of zero-shot scores with and without calibration; nothing where none was calibrated."""
    if "score_uncalibrated" not in trials or trials["score_uncalibrated"].isna().all():
        return []
    columns = {
        "model": ("model", plain), "paradigm": ("paradigm", plain), "task": ("task", plain),
        "score_uncalibrated": ("as it is", decimal(3)), "score": ("calibrated", decimal(3)),
    }  # fmt: skip
    text = ["Calibrated: the probabilities of the label words over those of the prompt without content (Zhao et al. 2021)."]
    rows = trials.dropna(subset="score_uncalibrated")
    return [Block("Zero-shot scores with and without calibration", text, shown=shown(rows, columns), csv="trials", folded=True)]


def _score_asked_for(efficiency: pd.DataFrame) -> str:
    row = efficiency.iloc[0]
    score = (
        f"a score of {row['target_score']:g}" if row["target_of"] == GIVEN else f"the best score that {row['target_of']} reaches"
    )
    return f"Examples that the mean curve needs for {score}. Without a marker, it is not reached."
