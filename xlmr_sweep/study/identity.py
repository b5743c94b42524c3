"""What makes two trials the same: the parts of a study that can change a score, as plain JSON values.

In: a `Study`. Out: identities of its models, data, mixture and recipes. Uses no network. A file is hashed once; the hash is kept
by path, size and times of change, so a plan never reads 37 GB again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.input_files import endings_in, input_files, readable
from xlmr_sweep.study.model_files import READ_ENDINGS, find_model_files
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.recipes import INSTRUCT_RUNTIME, InstructSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TASKS, TaskSpec
from xlmr_sweep.study.template import TEMPLATE_VERSION
from xlmr_sweep.study.user_cache import user_cache

READING_VERSION = 2
"""How texts and labels are read; every record holds it. Raised when another reading can change a score. Records of an earlier
reading are trusted where the change does not concern them (`storage/doubts.py`)."""

IDENTITY_VERSION = 1
"""Raised when the meaning of a setting changes, so that older results are never taken for new ones."""


def model_identity(study: Study, model: ModelSpec, *, as_in_0_1: bool = False) -> dict[str, Any]:
    """Returns what determines a model's starting weights and tokenizer.

    Args:
        study: the study.
        model: one of its models.
        as_in_0_1: as version 0.1 named it, which hashed every file of a folder that holds several models' weights.

    Raises:
        StudyError: if a folder is missing or empty, or a demo model is unknown.
    """
    identity = tokenizer_identity(study, model, as_in_0_1=as_in_0_1)
    if model.demo is not None:
        from xlmr_sweep.study.demo import DEMO_MODELS

        if model.demo not in DEMO_MODELS:
            raise StudyError(f"model {model.name}: demo: no demo model {model.demo!r}; there are {', '.join(DEMO_MODELS)}")
        identity |= {"demo": model.demo, "spec": DEMO_MODELS[model.demo].model_dump(mode="json")}
    if model.new_head:
        identity["new_head"] = True
    return identity


def tokenizer_identity(study: Study, model: ModelSpec, *, as_in_0_1: bool = False) -> dict[str, Any]:
    """Returns what determines a model's tokenizer: the hub id, the folder's hash, or the demo world."""
    if model.hub is not None:
        return {"hub": model.hub, "revision": model.revision}
    if model.folder is not None:
        return {"folder": model_hash(model.folder, f"model {model.name}: folder", as_in_0_1=as_in_0_1)}
    return demo_identity(study)


def demo_identity(study: Study) -> dict[str, Any]:
    """Returns the identity of the offline demo world: its generator's version and the seed."""
    from xlmr_sweep.study.demo import DEMO_VERSION

    return {"demo_version": DEMO_VERSION, "demo_seed": study.data.seed}


def data_identity(study: Study, task: TaskSpec) -> dict[str, Any]:
    """Returns what determines a task's examples.

    Raises:
        StudyError: if the data are read from a folder and a file is missing, or if the source has no such task.
    """
    data = study.data
    if data.source == "demo":
        if task.name not in TASKS:
            raise StudyError(f"task {task.name}: the demo has no such task; it has {', '.join(TASKS)}")
        return demo_identity(study)
    if data.source == "hub":
        if task.hub_config is None:
            raise StudyError(f"task {task.name}: has no hub_config, so it cannot be read from the hub {data.hub}")
        return {"hub": data.hub, "revision": data.revision, "config": task.hub_config}
    assert data.folder is not None
    files = {}
    for split in ("train", "val"):
        path = data.folder / task.folder / f"{split}.jsonl"
        files[split] = file_hash(path, f"task {task.name}: data file")
    return {"folder": files}


def mixture_identity(study: Study) -> dict[str, Any]:
    """Returns what determines the filtered instruction data.

    The folder of the model whose tokenizer counts tokens is named as version 0.1 named it. Only its tokenizer matters here, so
    weights beside the model's in that folder cast no doubt on other models' instructed trials.

    Raises:
        StudyError: if they are read from a folder that is missing or empty.
    """
    spec = study.instructions
    counted_by = study.model(spec.tokenizer or study.models[0].name)
    identity: dict[str, Any] = {
        "tokenizer": tokenizer_identity(study, counted_by, as_in_0_1=True),
        "max_target_tokens": spec.max_target_tokens,
        "exclude": sorted(spec.exclude),
        "max_rows": spec.max_rows,
    }
    if spec.drop_duplicates:
        identity["drop_duplicates"] = True
    if spec.source == "demo":
        return identity | demo_identity(study)
    if spec.source == "hub":
        return identity | {"hub": spec.hub, "revision": spec.revision, "files": spec.files}
    assert spec.folder is not None
    if isinstance(spec.folder, str):
        # A plan reads no bucket. The manifest says which files were there.
        return identity | {"bucket": spec.folder}
    return identity | {"folder": folder_hash(spec.folder, "instructions.folder", endings_in(spec.folder))}


def mixture_name(study: Study) -> str:
    """Returns the mixture's folder name under `data/`."""
    return f"{study.instructions.source}-{fingerprint(mixture_identity(study), 8)}"


def recipe_identity(study: Study, model: ModelSpec, *, as_in_0_1: bool = False) -> dict[str, Any]:
    """Returns what determines a model's instruction-tuned weights; known before they exist."""
    if model.instructed_folder is not None:
        what = f"model {model.name}: instructed_folder"
        return {"folder": model_hash(model.instructed_folder, what, as_in_0_1=as_in_0_1)}
    return {
        "identity_version": IDENTITY_VERSION,
        "model": model_identity(study, model, as_in_0_1=as_in_0_1),
        "mixture": mixture_identity(study),
        "template": TEMPLATE_VERSION,
        "instruct": study.instruct.model_dump(mode="json", exclude=INSTRUCT_RUNTIME | unused_settings(study.instruct)),
    }


def unused_settings(recipe: InstructSpec) -> set[str]:
    """Returns settings that came with a later version and are off. Left out, they keep the ids of older recipes."""
    usual = {"held_out": 0, "loss_on": "both"}
    return {name for name, value in usual.items() if getattr(recipe, name) == value}


def recipe_id(study: Study, model: ModelSpec, *, as_in_0_1: bool = False) -> str:
    """Returns the hash that names `instruct/<model>-<recipe_id>/`."""
    return fingerprint(recipe_identity(study, model, as_in_0_1=as_in_0_1))


def recipe_folder_name(study: Study, model: ModelSpec) -> str:
    """Returns the folder name of a model's instruction-tuned weights under `instruct/`."""
    return f"{model.name}-{recipe_id(study, model)}"


def model_folder_name(study: Study, model: ModelSpec) -> str:
    """Returns the folder name of a demo model's pre-trained weights under `models/`."""
    return f"{model.name}-{fingerprint(model_identity(study, model))}"


def task_data_name(study: Study, task: TaskSpec) -> str:
    """Returns the folder name under `data/` of a task's prepared examples."""
    kept: dict[str, Any] = {"data": data_identity(study, task), "fields": list(task.fields), "labels": list(task.labels)}
    if task.has_doubtful_labels:
        # Earlier versions read these labels in another way, so their examples are not taken.
        kept["reading"] = READING_VERSION
    return f"{task.name}-{fingerprint(kept, 8)}"


def model_hash(folder: Path, what: str, *, as_in_0_1: bool = False) -> str:
    """Returns a hash of the names and contents of the files of a model folder that loading reads.

    Files of weights that are not the model's count only by name. Where there are none, and the model's are right in the folder,
    the hash is that of version 0.1. That version also hashed files that are not the model's, and may have read them. Of the
    model's files it hashed only those right in the folder.

    Raises:
        MissingFolderError: if there is nothing to hash; `what` names the field.
    """
    files = find_model_files(folder)
    with readable(folder, what):
        if not files.weights or not (files.not_read or files.unlisted) or as_in_0_1:
            return folder_hash(folder, what, READ_ENDINGS)
        read = files.read_by_loading()
    listing = {path.relative_to(folder).as_posix(): file_hash(path, what) for path in read}
    return fingerprint({"files": listing, "not read": [path.name for path in files.not_read]}, 32)


def was_hashed_otherwise(model: ModelSpec) -> str:
    """Says why version 0.1 may have trained other weights of a folder of a model under its hash; empty if it had another one."""
    folders = [folder for folder in (model.folder, model.instructed_folder) if folder is not None]
    found = [files for files in map(find_model_files, folders) if files.weights]
    if any(files.not_read for files in found):
        return "from a folder with several files of weights, of which it may have read the wrong one"
    if any(files.unlisted for files in found):
        return "from weights below the folder or hidden in it, whose contents it did not look at"
    return ""


def folder_hash(folder: Path, what: str, endings: tuple[str, ...]) -> str:
    """Returns a hash of the names and contents of a folder's files with these endings (or of one file), hidden ones left out.

    Raises:
        MissingFolderError: if there is nothing to hash; `what` names the field.
    """
    with readable(folder, what):
        is_file = folder.is_file()
    if is_file:
        return file_hash(folder, what)
    listing = {name: file_hash(folder / name, what) for name in input_files(folder, what, endings).read}
    return fingerprint(listing, 32)


def file_hash(path: Path, what: str) -> str:
    """Returns the SHA-256 of a file's bytes, from the cache if path, size and times of change are as before.

    Raises:
        MissingFolderError: if the file cannot be read; `what` names the field.
    """
    try:
        stat = path.stat()
        # Unpacking and copying can set mtime to any value, and weights of one architecture have one size, so ctime counts too.
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        cached = _cache_get(key)
        if cached is not None:
            return cached
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MissingFolderError(f"{what}: {path} cannot be read: {error.strerror}") from None
    _cache_put(key, digest)
    return digest


def _cache_entry(key: str) -> Path:
    return user_cache() / "hashes" / hashlib.sha256(key.encode()).hexdigest()[:32]


def _cache_get(key: str) -> str | None:
    try:
        stored = json.loads(_cache_entry(key).read_text())
    except (OSError, ValueError):
        return None
    return stored.get("sha256") if stored.get("key") == key else None


def _cache_put(key: str, digest: str) -> None:
    entry = _cache_entry(key)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        # One small file an entry, renamed into place: several commands may do this at once.
        partial = entry.with_suffix(f".{os.getpid()}.tmp")
        partial.write_text(json.dumps({"key": key, "sha256": digest}))
        partial.replace(entry)
    except OSError:
        return  # If the cache cannot be written, the file is hashed again next time.
