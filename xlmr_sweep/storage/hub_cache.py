"""What this machine's cache of the hub holds. In: a model's hub id. Out: a file's path. Nothing is fetched."""

from __future__ import annotations

from pathlib import Path


def cached_model_file(hub: str, name: str, revision: str) -> Path | None:
    """Returns a file of a hub's model as the cache holds it; None where it does not."""
    from huggingface_hub import constants

    # The client's import takes longer than a dry run's arithmetic. Where a model has no folder, it would find nothing.
    if not Path(constants.HF_HUB_CACHE, f"models--{hub.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub, name, revision=revision)
    return Path(found) if isinstance(found, str) else None
