"""What runs have measured of a model, kept in `learned/<model>.json`. Each part of the system adds keys of its own.

It only saves time: if a file is lost or damaged, its values are measured again.
"""

from __future__ import annotations

import logging
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import learned_file
from xlmr_sweep.storage.files import Storage

log = logging.getLogger(__name__)


def read_learned(storage: Storage, model: str) -> dict[str, Any]:
    """Returns what is known of a model by its short name; empty where nothing is."""
    try:
        value = storage.read_json(learned_file(model))
    except (OSError, StudyError) as error:
        log.warning("%s", error)
        return {}
    return value if isinstance(value, dict) else {}


def learn(storage: Storage, model: str, **values: Any) -> None:
    """Sets keys of what is known of a model and keeps the others. Only the driver calls it, so there is one writer."""
    try:
        storage.write_json(learned_file(model), {**read_learned(storage, model), **values})
    except (OSError, StudyError) as error:
        log.warning("%s: not kept: %s", learned_file(model), error)
