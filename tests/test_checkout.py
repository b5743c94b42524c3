"""A checkout that is not installed works, for example on a cluster's shared folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

import xlmr_sweep

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Returns a copy of the project, and a Python that has every package but the project."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("xlmr_sweep", "analysis", "experiments", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    packages = tmp_path_factory.mktemp("packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        # The .pth files would bring an editable installation back.
        if "xlmr_sweep" not in path.name and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    (own,) = environment.glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n")
    return folder, str(environment / "bin" / "python")


def output(*command: str, cwd: Path, **environment: str) -> str:
    """Runs a command; returns what it says."""
    variables = {"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_project_is_not_installed(checkout: tuple[Path, str], tmp_path: Path) -> None:
    _, python = checkout
    code = "from importlib.util import find_spec; print(find_spec('torch') is None, find_spec('xlmr_sweep'))"
    assert output(python, "-c", code, cwd=tmp_path) == "False None\n"


@pytest.mark.parametrize(("option", "said"), [("--dry-run", "360 trials: 0 done"), ("--status", "0 of 360 trials done")])
def test_the_scripts_run_from_any_folder(checkout: tuple[Path, str], tmp_path: Path, option: str, said: str) -> None:
    folder, python = checkout
    assert said in output(python, str(folder / "experiments" / "run_grid.py"), "--study", "demo", option, cwd=tmp_path)


@pytest.mark.parametrize("script", ["run_instruct", "prepare_data", "demo", "benchmark"])
def test_every_script_starts(checkout: tuple[Path, str], tmp_path: Path, script: str) -> None:
    folder, python = checkout
    assert "usage" in output(python, str(folder / "experiments" / f"{script}.py"), "--help", cwd=tmp_path).lower()


def test_modules_run_from_the_checkouts_folder(checkout: tuple[Path, str]) -> None:
    folder, python = checkout
    version = output(python, "-m", "xlmr_sweep.commands.console", "--version", cwd=folder)
    assert version == f"xlmr-sweep {xlmr_sweep.__version__}\n"
    assert "--results" in output(python, "-m", "analysis.report", "--help", cwd=folder)


def test_what_a_record_says_of_versions_is_right(checkout: tuple[Path, str], tmp_path: Path) -> None:
    folder, python = checkout
    code = (
        "import json; from xlmr_sweep.storage.environment import TRAINED_WITH, package_versions, version_columns;"
        "print(json.dumps([version_columns(), package_versions(*TRAINED_WITH)]))"
    )
    columns, trained = json.loads(output(python, "-c", code, cwd=tmp_path, PYTHONPATH=str(folder)))
    assert columns["version_xlmr_sweep"] == trained["xlmr_sweep"] == xlmr_sweep.__version__
    assert columns["version_torch"] == trained["torch"]
    assert set(trained) == {"python", "torch", "transformers", "tokenizers", "ray", "xlmr_sweep"}


def test_processes_that_a_script_starts_read_the_checkout_too(checkout: tuple[Path, str], tmp_path: Path) -> None:
    folder, python = checkout
    inner = "import xlmr_sweep; print(xlmr_sweep.__file__)"
    code = f"import checkout, subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    said = output(python, "-c", code, cwd=tmp_path, PYTHONPATH=str(folder / "experiments"))
    assert Path(said.strip()).parent == folder / "xlmr_sweep"
