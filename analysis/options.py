"""The options of a report. In: what the reader typed. Out: how tables are computed, and which names mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.ipr import Rule, XScale
from analysis.schema import TableError


@dataclass(frozen=True)
class Options:
    """How the tables are computed. The defaults are what the paper most likely did."""

    rule: Rule = "trapezoid"
    """How curves are integrated."""
    x_scale: XScale = "linear"
    """Whether to integrate over the training size or over its logarithm."""
    mixture_tasks: tuple[str, ...] | None = None
    """Tasks that the instruction mixture contains. None means that the study says it."""
    target_score: float | None = None
    """The score whose examples are counted. None means the best score of prompting on each task."""
    zero_shot: bool = False
    """Whether ratios and advantages count zero-shot scores, the curves' points at training size 0."""
    examples: bool = True
    """Whether to show single examples. The page then holds texts of the evaluation data."""


def name_pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Reads OURS=THEIRS options.

    Raises:
        TableError: if a text has another form, or if a name of ours is given twice.
    """
    pairs = {}
    for text in texts or []:
        ours, sign, theirs = text.partition("=")
        if not sign or not ours or not theirs:
            raise TableError(f"{option}: {text!r} is not of the form OURS=THEIRS")
        if ours in pairs:
            raise TableError(f"{option}: {ours!r} is given twice")
        pairs[ours] = theirs
    return pairs
