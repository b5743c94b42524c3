"""What a reader of a report can choose."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.ipr import Rule, XScale


@dataclass(frozen=True)
class Options:
    """How the tables are computed. Defaults are what the paper most likely did."""

    rule: Rule = "trapezoid"
    """How curves are integrated."""
    x_scale: XScale = "linear"
    """Integrate over the training size or its logarithm."""
    mixture_tasks: tuple[str, ...] | None = None
    """Tasks that the instruction mixture contains; None where only the study can tell."""
