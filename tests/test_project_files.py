"""The usual files at the top: licence, citation, security, hooks. Parsed, and consistent with the project."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import xlmr_sweep

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the text that the Apache Software Foundation publishes."""


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_licence_is_the_standard_text_with_the_owner_filled_in() -> None:
    owner = "2026 The xlmr_sweep authors"
    text = (ROOT / "LICENSE").read_text()
    assert text.count(owner) == 1
    standard = text.replace(owner, "[yyyy] [name of copyright owner]")
    assert hashlib.sha256(standard.encode()).hexdigest() == APACHE_2
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]


def test_the_citation_has_what_the_format_asks_for_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["title"] == PROJECT["name"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["version"] == xlmr_sweep.__version__
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["title"] == "Scaling Effects of Instruction Tuning in Encoder-Based Language Models"
    assert paper["authors"]
    assert paper["type"] == "unpublished"


def test_the_hooks_run_what_ci_runs_and_download_nothing() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == {"lint", "types", "test"}
    in_ci = {
        word for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ") for word in line.split()
    }
    for name, hook in hooks.items():
        assert hook["entry"] == f"make {name}"
        assert name in make_targets() & in_ci
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
    assert hooks["test"]["stages"] == ["pre-push", "manual"]


def test_what_contributors_are_told_to_run_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 40
    told = {name for line in re.findall(r"^make ([a-z -]+?)  +#", text, re.MULTILINE) for name in line.split()}
    assert told == {"install-dev", "lint", "types", "test"}
    assert told <= make_targets()
    for path in [*re.findall(r"\]\(([^)#]+)\)", text), *re.findall(r"`((?:tests|\.ci)/[^`]+)`", text)]:
        assert (ROOT / path).exists(), path


def test_what_the_security_page_says_is_held_by_tests_that_there_are() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = set(re.findall(r"`((?:tests|docker|docs)/[^`]+)`", text))
    assert len({path for path in named if path.startswith("tests/")}) >= 8
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_the_version_is_read_from_the_source() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", xlmr_sweep.__version__)
