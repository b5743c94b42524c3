"""What a reader of a report can choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.ipr import Rule, XScale
from analysis.schema import TableError


@dataclass(frozen=True)
class Options:
    """How the tables are computed. Defaults are what the paper most likely did."""

    rule: Rule = "trapezoid"
    """How curves are integrated."""
    x_scale: XScale = "linear"
    """Integrate over the training size or its logarithm."""
    mixture_tasks: tuple[str, ...] | None = None
    """Tasks that the instruction mixture contains; None where only the study can tell."""
    target_score: float | None = None
    """The score whose examples are counted; None for the best of prompting on each task."""
    zero_shot: bool = False
    """Count zero-shot scores, the curves' points at training size 0, in ratios and advantages."""


def name_pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Reads OURS=THEIRS options.

    Raises:
        TableError: for a text of another form, and for a name of ours that is given twice.
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
