"""No command here may start Ray."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError("Ray would have been started")

    monkeypatch.setattr("xlmr_sweep.commands.run.connected", started)
