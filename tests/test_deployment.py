"""`docker/`, `.ci/` and what an installation holds: parsed, consistent with the project, and (their commands) run directly."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_dockerfile_has_both_targets_and_the_projects_pins() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)) == {"base", "cpu", "cuda"}
    pins = set(re.findall(r"torch==[\d.]+", text))
    assert pins == set(re.findall(r"torch==[\d.]+", (ROOT / "pyproject.toml").read_text())) == {"torch==2.13.0"}
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    for copied in re.findall(r"^COPY (?!--chown)(.+) \./?\w*$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())


def test_shell_files_are_well_formed() -> None:
    for path in [*(ROOT / "docker").glob("*.sh"), ROOT / ".ci" / "run"]:
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0, path
    head = (ROOT / "docker" / "head.sh").read_text()
    assert "experiments/run_grid.py --address auto --min-nodes" in head


def test_constraints_pin_every_requirement_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[^=;]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    required = {re.split(r"[\[<>=~ ]", line)[0].lower().replace("_", "-") for line in [*project["dependencies"], *extras]}
    assert len(required) > 20
    assert required - {"xlmr-sweep"} <= pinned


def test_the_installed_package_has_every_study_every_template_and_the_console_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["setuptools"]["data-files"]
    for folder in (ROOT / "experiments" / "studies", ROOT / "launch"):
        patterns = shipped[f"share/xlmr_sweep/{folder.name}"]
        assert {path for pattern in patterns for path in ROOT.glob(pattern)} == set(folder.iterdir())
    module, function = project["project"]["scripts"]["xlmr-sweep"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
