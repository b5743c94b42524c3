"""How to cite a study and its results. In: `Results`. Out: fingerprints, BibTeX and a CITATION.cff.

The study's fingerprint is a hash of its trials' ids, so of everything that can change a score. That of the results is a hash of
the cells and their scores: two tables have the same one only if every score is the same to the last bit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.latex import escaped
from analysis.schema import NAMES, checked
from analysis.tables import Results
from xlmr_sweep import __version__
from xlmr_sweep.storage.records import AXES

SOFTWARE = "xlmr_sweep"


@dataclass(frozen=True)
class Citation:
    """What names a set of results."""

    name: str
    """The study's name, or the file's."""
    num_trials: int
    num_planned: int
    study: str
    """The study's fingerprint, 16 hex digits; empty where only a table is known."""
    results: str
    """The results' fingerprint, 16 hex digits."""
    versions: str
    """Of this software, when the trials ran; that of now where no record says."""
    year: str
    """Of the newest trial; empty where no record says."""

    @property
    def title(self) -> str:
        """The title of the results."""
        return f"Results of the study {self.name}"

    @property
    def note(self) -> str:
        """Fingerprints, software and completeness in one line."""
        study = f"study fingerprint {self.study}, " if self.study else ""
        trials = f"{self.num_trials:,} of {self.num_planned:,} trials"
        return f"{study}results fingerprint {self.results}, {trials}, {SOFTWARE} {self.versions}"


def citation(results: Results) -> Citation:
    """Returns what names the results."""
    rows = results.rows if results.every is None else results.every
    versions = sorted(rows["version_xlmr_sweep"].dropna().astype(str).unique()) if "version_xlmr_sweep" in rows else []
    finished = rows["finished_at"].dropna().astype(str) if "finished_at" in rows else pd.Series(dtype=str)
    return Citation(
        name=results.name,
        num_trials=len(rows),
        num_planned=results.num_planned or len(results.planned),
        study=results.fingerprint,
        results=results_fingerprint(rows, () if results.every is None else [name for name in AXES if name in rows]),
        versions=" and ".join(versions or [__version__]),
        year=finished.max()[:4] if len(finished) else "",
    )


def results_fingerprint(rows: pd.DataFrame, axes: Sequence[str] = ()) -> str:
    """Returns a hash of cells and scores.

    Args:
        rows: a table of results.
        axes: the columns, variant or prompt, that name a cell too.
    """
    digest = hashlib.sha256()
    for name, part in _by_axes(rows, axes):
        if axes:
            digest.update("\0".join(name).encode() + b"\2")
        _add(digest, checked(part))
    return digest.hexdigest()[:16]


def _by_axes(rows: pd.DataFrame, axes: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    if not axes or rows.empty:
        yield ("",) * len(axes), rows
        return
    named = rows.assign(**{name: rows[name].fillna("").astype(str) for name in axes})
    for name, part in named.groupby(list(axes)):
        yield tuple(map(str, name)), part


def _add(digest: Any, rows: pd.DataFrame) -> None:
    for name in NAMES:
        digest.update("\0".join(rows[name].astype(str)).encode() + b"\1")
    for name, kind in (("train_size", "<i8"), ("seed", "<i8"), ("score", "<f8")):
        digest.update(np.ascontiguousarray(rows[name].to_numpy(), dtype=kind).tobytes())


def bibtex(cited: Citation, author: str = "", url: str = "") -> str:
    """Returns entries of the results and of the software.

    Args:
        cited: what to cite.
        author: who made the results; a reader puts names in place of the default.
        url: address of the results, if they have one.
    """
    fields = {
        "title": f"{{{escaped(cited.title)}}}",
        "author": f"{{{escaped(author or f'The authors of the study {cited.name}')}}}",
        "year": cited.year,
        "note": escaped(cited.note),
        "url": url,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    key = f"{SOFTWARE}-{cited.study or cited.results}"
    software = [
        f"@software{{{SOFTWARE},",
        f"  title = {{{{{escaped(SOFTWARE)}}}}},",
        f"  author = {{{{The {escaped(SOFTWARE)} authors}}}},",
        f"  version = {{{escaped(cited.versions)}}},",
        "}",
    ]
    return "\n".join([f"@misc{{{key},", *lines, "}", *software]) + "\n"


def citation_file(cited: Citation, author: str = "", url: str = "") -> str:
    """Returns a CITATION.cff of the results, as a data set (Citation File Format 1.2.0)."""
    value = {
        "cff-version": "1.2.0",
        "message": "If you use these results, please cite them.",
        "type": "dataset",
        "title": cited.title,
        "authors": [{"name": author or f"The authors of the study {cited.name}"}],
        **({"url": url} if url else {}),
        "abstract": f"{cited.title}: {cited.note}.",
        "identifiers": [
            {"type": "other", "value": value, "description": f"fingerprint of the {what}"}
            for what, value in (("study", cited.study), ("results", cited.results))
            if value
        ],
        "references": [
            {
                "type": "software",
                "title": SOFTWARE,
                "authors": [{"name": f"The {SOFTWARE} authors"}],
                "version": cited.versions,
            }
        ],
    }
    return as_yaml(value)


class _Quoting(yaml.SafeDumper):
    """Quotes texts that YAML 1.2 reads as numbers, such as the fingerprint 12e4567890. `yaml.safe_dump` follows YAML 1.1."""

    def text(self, value: str) -> yaml.ScalarNode:
        """Returns how a text is written."""
        style = "'" if NUMBER_LIKE.fullmatch(value) else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Quoting.add_representer(str, _Quoting.text)

NUMBER_LIKE = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")
"""What YAML 1.1 or 1.2 may read as a number."""


def as_yaml(value: Any) -> str:
    """Returns YAML in which every text is read as one, by any reader."""
    return yaml.dump(value, Dumper=_Quoting, sort_keys=False, allow_unicode=True)
