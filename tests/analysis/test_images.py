"""Figures as image files."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from analysis.images import file_names, write_images
from analysis.page import Page
from analysis.schema import TableError


@pytest.mark.browser
@pytest.mark.slow
def test_images_are_a_png_and_an_svg_of_each_figure(whole_page: Page, tmp_path: Path) -> None:
    if shutil.which("chromium") is None and "BROWSER_PATH" not in os.environ:
        reason = "needs chromium on the PATH"
        if os.environ.get("XLMR_SWEEP_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    figures = {"curves-a/b": whole_page.figures["curves-cb"], "hours": whole_page.figures["hours"]}
    paths = write_images(figures, tmp_path / "images")
    assert sorted(path.name for path in paths) == ["curves-a%2Fb.png", "curves-a%2Fb.svg", "hours.png", "hours.svg"]
    assert (tmp_path / "images" / "hours.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "images" / "hours.svg").read_text()[:200]


def test_no_two_figures_share_a_file_on_any_disk() -> None:
    """Capitals, forms of Unicode (the accent apart, and in the letter), and names longer than a disk takes."""
    names = ["curves-CB", "curves-cb", "curves-\u00e9", "curves-e\u0301", "é" * 200, "é" * 201, "hours"]
    found = file_names(names)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(names)
    assert max(len(name.encode()) for name in found) < 250
    assert found[-1] == "hours"


def test_without_a_browser_images_are_refused_in_one_clear_line(
    whole_page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    with pytest.raises(TableError, match=r"^--images needs Chromium or Chrome: install one, or name it in BROWSER_PATH$"):
        write_images({"hours": whole_page.figures["hours"]}, tmp_path)
