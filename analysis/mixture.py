"""Tables of the filtered instruction data. In: the manifest of their preparation; the data are not read. Out: three tables."""

from __future__ import annotations

import pandas as pd

from analysis.artifacts import Artifacts


def mixture_tables(found: Artifacts) -> dict[str, pd.DataFrame]:
    """Returns `mixture_counts`, `mixture_lengths` and `mixture_targets` (paper, figures 2 and 4), as far as they are known."""
    manifest = found.mixture or {}
    tables = {}
    if manifest.get("counts"):
        # Each step keeps at most what the step before it kept. JSON holds the steps in alphabetical order.
        steps = sorted(manifest["counts"].items(), key=lambda step: (step[0] != "read", -step[1]))
        tables["mixture_counts"] = pd.DataFrame(steps, columns=["step", "rows"])
    histogram = manifest.get("length_histogram")
    if histogram and histogram.get("counts"):
        edges = histogram["edges"]
        rows = [(edges[i], edges[i + 1] if i + 1 < len(edges) else None, n) for i, n in enumerate(histogram["counts"])]
        tables["mixture_lengths"] = pd.DataFrame(rows, columns=["from_tokens", "to_tokens", "samples"])
    if manifest.get("top_targets"):
        tables["mixture_targets"] = pd.DataFrame(manifest["top_targets"], columns=["target", "count"])
    return tables
