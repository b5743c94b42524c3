"""What a result was made with: versions, commit, host, time. Imports no package of others."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import xlmr_sweep

PACKAGES = ("torch", "transformers", "ray", "xlmr_sweep")
"""Named in every row of results."""

TRAINED_WITH = ("torch", "transformers", "tokenizers", "ray", "xlmr_sweep")
"""Named in the manifest of weights that were trained here."""


def package_versions(*packages: str) -> dict[str, str]:
    """Returns the version of Python, and of each package that is installed.

    The version of this project is read from its source, because a checkout need not be installed.
    """
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = xlmr_sweep.__version__ if package == xlmr_sweep.__name__ else metadata.version(package)
    return found


def machine_cpus() -> int:
    """Returns the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def version_columns() -> dict[str, str]:
    """Returns the columns `version_<package>` of a row of results."""
    return {f"version_{package}": version for package, version in package_versions(*PACKAGES).items()}


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Returns the commit of the project's checkout, with `+changes` where files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def host() -> str:
    """Returns this machine's name."""
    return socket.gethostname()


def now() -> str:
    """Returns the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
