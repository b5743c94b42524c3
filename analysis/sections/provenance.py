"""The chapter of provenance: source, versions, hardware, fingerprints, and how the study differs from the paper."""

from __future__ import annotations

from analysis.derive import Derived
from analysis.page import Block, Section
from analysis.provenance import deviations, settings
from analysis.tables import Results


def provenance_section(results: Results, derived: Derived) -> Section:
    """Returns what a reader needs to trust or to repeat the results."""
    blocks = [Block(shown=derived["provenance"], csv="provenance")]
    if results.study is not None:
        differences = deviations(results.study) or ["None in what the paper states."]
        blocks.append(Block("Deviations from the paper", differences))
        blocks.append(Block("The declared study", shown=settings(results.study), folded=True))
    return Section("Provenance", blocks, "provenance")
