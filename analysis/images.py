"""Figures as image files. In: figures. Out: a PNG and an SVG of each, drawn by kaleido with an installed Chromium."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from analysis.figures.style import Figure
from analysis.schema import TableError

WIDTH = 1100
PNG_SCALE = 2

LONGEST = 200
"""Bytes of a file's name. Disks take 255, and an ending and a hash are added."""

PAPER, INK = "#ffffff", "#1d2330"


def write_images(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes `<name>.png` and `<name>.svg` of every figure, on white, in the report's proportions.

    A character that file names cannot hold is written as its code. The slash of a task `a/b` becomes `%2F`.

    Args:
        figures: figures by name.
        folder: target folder. It is made if it is missing.

    Raises:
        TableError: if kaleido or Chromium is missing. The message says how to get it.
    """
    try:
        import kaleido  # noqa: F401  (plotly imports it late, and its own message is less clear)
    except ImportError as error:
        raise TableError("--images needs kaleido: pip install 'xlmr_sweep[images]'") from error
    from choreographer.errors import BrowserFailedError, ChromeNotFoundError
    from plotly import io

    folder.mkdir(parents=True, exist_ok=True)
    shown: list[dict[str, Any]] = [_on_paper(figure) for figure in figures.values()]
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg") for name in file_names(figures)]
    scales = [PNG_SCALE] * len(shown) + [1] * len(shown)
    try:
        io.write_images(shown * 2, paths, scale=scales, width=WIDTH, validate=False)
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise TableError("--images needs Chromium or Chrome: install one, or name it in BROWSER_PATH") from error
    except RuntimeError as error:
        # plotly raises a RuntimeError of its own if it finds no browser.
        if "chrome" not in str(error).lower():
            raise
        raise TableError("--images needs Chromium or Chrome: install one, or name it in BROWSER_PATH") from error
    return paths


def file_names(names: Iterable[str]) -> list[str]:
    """Returns the name of a file for each name, without an ending.

    A hash tells apart those that a disk might take for one (capitals, forms of Unicode), and stands for the end of long ones.
    """
    written = {name: _file_name(name) for name in names}
    alike = Counter(_folded(text) for text in written.values())
    return [
        text
        if alike[_folded(text)] == 1 and len(text.encode()) <= LONGEST
        else f"{text.encode()[:LONGEST].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, text in written.items()
    ]


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _file_name(name: str) -> str:
    return re.sub(r'[%/\\:*?"<>|\x00-\x1f]', lambda found: f"%{ord(found.group()):02X}", name)


def _on_paper(figure: Figure) -> Figure:
    layout = {**figure["layout"], "paper_bgcolor": PAPER, "plot_bgcolor": PAPER}
    return {"data": figure["data"], "layout": {**layout, "font": {**layout["font"], "color": INK}}}
