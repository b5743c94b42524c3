"""Reads the README and the pages of `docs/`: their code blocks, inline code, links and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMAND_STARTS = ("python ", "make ", "ray ", "pip ", "xlmr-sweep ")
"""How inline code begins that is a command."""


def page_name(page: Path) -> str:
    """Names a page in the list of tests."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Returns the fenced code blocks of a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """Returns a page without its code blocks, a line break inside a paragraph as a space."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def inline_code(page: Path) -> list[str]:
    """Returns what stands between backticks outside of code blocks."""
    return re.findall(r"`([^`]+)`", prose(page))


def links(page: Path) -> list[str]:
    """Returns the targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """Returns the commands of a page as words: each line of its `sh` blocks, and inline code that is a command."""
    lines = [line for block in blocks(page, "sh") for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    # What may be left out stands in brackets.
    lines += [re.sub(r"[\[\]]|\.\.\.", "", code) for code in inline_code(page) if code.startswith(COMMAND_STARTS)]
    return [words for line in lines if (words := shlex.split(line, comments=True))]
