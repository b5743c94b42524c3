"""Puts the page together. In: results, what their storage keeps, and derived tables. Out: `analysis.page.Page`."""

from __future__ import annotations

import pandas as pd

from analysis.answer import answer
from analysis.artifacts import Artifacts
from analysis.derive import Derived
from analysis.examples import examples_of
from analysis.options import Options
from analysis.page import Page
from analysis.schema import ordered
from analysis.sections.advantage import advantage_section
from analysis.sections.citation import citation_section
from analysis.sections.completeness import completeness_section
from analysis.sections.compute import compute_section
from analysis.sections.curves import curve_section
from analysis.sections.examples import example_section
from analysis.sections.families import families_section
from analysis.sections.ipr import ipr_section
from analysis.sections.mixture import mixture_section
from analysis.sections.prompts import prompts_section
from analysis.sections.provenance import provenance_section
from analysis.sections.reproduction import reproduction_section
from analysis.sections.variants import variants_section
from analysis.summary import summary
from analysis.tables import Results


def assemble(results: Results, found: Artifacts, derived: Derived, options: Options) -> Page:
    """Returns the page of a report. A chapter without data is left out."""
    names = pd.concat([results.planned, results.rows], ignore_index=True)
    models = ordered(names["model"], [model.name for model in results.study.models] if results.study else [])
    tasks = ordered(names["task"], [task.name for task in results.study.tasks] if results.study else [])
    examples = examples_of(results, derived.predictions, tasks)
    sections = [
        ipr_section(derived, options, models, tasks),
        families_section(derived),
        variants_section(derived, models, tasks),
        prompts_section(derived),
        curve_section(derived, models, tasks),
        example_section(examples),
        reproduction_section(derived, models),
        advantage_section(derived, models, tasks),
        compute_section(derived, models),
        mixture_section(found, derived),
        completeness_section(derived, models, tasks),
        provenance_section(results, derived),
        citation_section(results),
    ]
    filters = {"model": models, "task": tasks, "paradigm": ordered(names["paradigm"])}
    shown = [section for section in sections if section is not None]
    lead, first = summary(derived, models), answer(derived["ipr"], models)
    return Page(f"Study {results.name}", lead, derived.notes, filters, shown, first, examples)
