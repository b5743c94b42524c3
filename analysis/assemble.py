"""Puts the page together. In: results and derived tables. Out: `analysis.page.Page`, with every name in its order."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived, Options
from analysis.page import Page
from analysis.schema import ordered
from analysis.sections.completeness import completeness_section
from analysis.sections.curves import curve_section
from analysis.sections.ipr import ipr_section
from analysis.tables import Results


def assemble(results: Results, derived: Derived, options: Options) -> Page:
    """Returns the page of a report."""
    names = pd.concat([results.planned, results.rows], ignore_index=True)
    models = ordered(names["model"], [model.name for model in results.study.models] if results.study else [])
    tasks = ordered(names["task"], [task.name for task in results.study.tasks] if results.study else [])
    paradigms = ordered(names["paradigm"])
    sections = [
        ipr_section(derived, options, models, tasks),
        curve_section(derived, models, tasks),
        completeness_section(derived),
    ]
    counts = derived["completeness"]
    present, failed = counts["present"].sum(), counts["failed"].sum()
    lead = [f"{present} of {counts['planned'].sum()} planned trials have a result; {failed} failed."]
    filters = {"model": models, "task": tasks, "paradigm": paradigms}
    return Page(f"Study {results.name}", lead, derived.notes, filters, sections)
