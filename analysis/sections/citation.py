"""The chapter that says how to cite the results."""

from __future__ import annotations

from analysis.citation import bibtex, citation
from analysis.page import Block, Section
from analysis.tables import Results


def citation_section(results: Results) -> Section:
    """Returns the fingerprints of study and results, and BibTeX."""
    cited = citation(results)
    text = [
        f"Fingerprint of the study: {cited.study}. It is a hash of the ids of all its trials, so of all that can change a score."
        if cited.study
        else "The fingerprint of the study is not known: it needs the study's storage.",
        f"Fingerprint of the results: {cited.results}. It is a hash of the cells and their scores, and the same only if all are.",
    ]
    return Section("Cite this", [Block(text=text, code=bibtex(cited))], "cite")
