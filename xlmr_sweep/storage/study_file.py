"""The study that a storage belongs to, in `study.json`: as declared, with every size and seed that was ever added."""

from __future__ import annotations

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import STUDY_FILE
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study, validated


def open_study(storage: Storage, declared: Study) -> Study:
    """Returns the declared study with all sizes and seeds ever added to this storage.

    Raises:
        StudyError: if the folder belongs to another study or its study.json is damaged.
    """
    kept = read_study(storage)
    if kept is None:
        return declared
    if kept.name != declared.name:
        problem = f"--storage {storage}: belongs to study {kept.name!r}, not {declared.name!r}"
        raise StudyError(f"{problem}; name that study with --study, or give another folder")
    cap = max(declared.max_train_size, *kept.sizes) if kept.sizes else declared.max_train_size
    return declared.replaced(max_train_size=cap).extended(kept.sizes, kept.seeds)


def read_study(storage: Storage) -> Study | None:
    """Returns the study of study.json, or None where there is none.

    Raises:
        StudyError: if it is damaged.
    """
    raw = storage.read_json(STUDY_FILE)
    if raw is None:
        return None
    try:
        return validated(raw, f"{storage.path(STUDY_FILE)}: not a study")
    except StudyError as error:
        raise StudyError(f"{error}; restore it or use another folder") from None


def write_study(storage: Storage, study: Study) -> None:
    """Writes study.json."""
    storage.write_json(STUDY_FILE, study.model_dump(mode="json"))
