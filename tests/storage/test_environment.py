"""What a result says it was made with."""

from __future__ import annotations

import platform
from importlib import metadata

import xlmr_sweep
from xlmr_sweep.storage.environment import PACKAGES, package_versions, version_columns


def test_the_own_version_is_that_of_the_source() -> None:
    assert package_versions("xlmr_sweep") == {"python": platform.python_version(), "xlmr_sweep": xlmr_sweep.__version__}


def test_a_package_that_is_not_installed_is_left_out() -> None:
    assert package_versions("torch", "no-such-package") == {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }


def test_a_row_of_results_names_python_and_every_package() -> None:
    assert list(version_columns()) == ["version_python", *(f"version_{name}" for name in PACKAGES)]
