"""A cache of the hub, as its client lays it out, that holds folders of this machine."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest


def cache_model(
    monkeypatch: pytest.MonkeyPatch, cache: Path, hub: str = "", folder: Path | None = None, revision: str = "main"
) -> None:
    """Makes `cache` the cache of this process, with a folder as what it holds of a hub's model; empty without one."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    if folder is not None:
        snapshot = cache / f"models--{hub.replace('/', '--')}" / "snapshots" / revision
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        snapshot.symlink_to(folder, target_is_directory=True)
