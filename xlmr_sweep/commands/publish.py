"""`xlmr-sweep publish`: a storage as a data set and, if asked for, its instruction-tuned weights as models.

In: a storage with results. Out: a folder with `dataset/` and `models/<model>/`, or the same as repositories on the Hugging Face
hub. Both hold the same files, so a folder shows what would go up.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from xlmr_sweep.commands.publish_cards import CardFacts, data_card
from xlmr_sweep.commands.publish_data import MANIFEST, data_files, manifest, predictions_name, public_study
from xlmr_sweep.commands.publish_repository import Repository, amount, content_size, is_left_over, refuse_secrets
from xlmr_sweep.commands.publish_weights import model_texts, tuned_models, weight_files
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import MODELS
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import validated

if TYPE_CHECKING:
    from analysis.tables import Results
    from xlmr_sweep.study.spec import Study

HUB = "hub:"
"""How `--to` begins for the hub."""

CITATION = "CITATION.cff"


@dataclass(frozen=True)
class Publication:
    """What a user asked for."""

    storage: Storage
    to: str
    """A folder, or `hub:ORG/NAME`."""
    weights: bool = False
    public: bool = False
    license: str = ""

    @property
    def hub_name(self) -> str:
        """ORG/NAME, or empty for a folder.

        Raises:
            StudyError: if it is no such name.
        """
        if not self.to.startswith(HUB):
            return ""
        from xlmr_sweep.commands.publish_hub import HUB_NAME

        name = self.to.removeprefix(HUB)
        if not HUB_NAME.fullmatch(name):
            raise StudyError(f"--to {self.to}: give hub:ORG/NAME; letters, digits and . _ - may be in both")
        return name


def publish(asked: Publication, console: Console, cache: Path, *, yes: bool) -> int:
    """Writes the folder, or shows what would go to the hub and, with `yes`, sends it. Returns the exit status.

    Args:
        asked: what is wanted.
        console: prints what is sent.
        cache: an empty folder for copies of weights that lie in a far storage.
        yes: whether to send.

    Raises:
        StudyError: for a storage without results, a folder of others, and whatever the hub refuses.
    """
    hub_name = asked.hub_name
    if not hub_name:
        _check_folder(Path(asked.to))
    repositories = repositories_of(asked, cache)
    for repository in repositories:
        refuse_secrets(repository)
    if not hub_name:
        for repository in repositories:
            _write(repository, Path(asked.to))
        _say(console, f"Published to {Path(asked.to).absolute()}: {_in_words(repositories)}")
        return 0
    for repository in repositories:
        _show(console, repository, public=asked.public)
    if not yes:
        _say(console, f"Nothing was sent. --yes sends {_in_words(repositories)}")
        return 0
    from xlmr_sweep.commands.publish_hub import upload

    for address in upload(repositories, public=asked.public):
        _say(console, f"Published: {address}")
    return 0


def repositories_of(asked: Publication, cache: Path) -> list[Repository]:
    """Returns what there is to publish. Reads the storage and writes nothing but copies of weights to the cache.

    Raises:
        StudyError: if the storage holds no result, or no weights that are asked for.
    """
    from analysis.artifacts import artifacts
    from analysis.citation import citation, citation_file
    from analysis.derive import derive
    from analysis.options import Options
    from analysis.predictions import PredictionFiles

    results = _results(asked.storage)
    study = results.study
    assert study is not None
    found = artifacts(results)
    # Asked for first, because tables take seconds.
    folders = tuned_models(asked.storage, study, found) if asked.weights else {}
    files = PredictionFiles(asked.storage)
    derived, cited = derive(results, found, Options(examples=False), files), citation(results)
    hub_name = asked.hub_name
    url = f"https://huggingface.co/datasets/{hub_name}" if hub_name else ""
    facts = CardFacts(_without_folders(study), derived, cited, hub_name.partition("/")[0], url, asked.license)
    data: dict[str, bytes] = data_files(files, results, derived, study)
    tasks = [task.name for task in study.tasks if predictions_name(task.name) in data]
    data |= {"README.md": data_card(facts, tasks).encode(), CITATION: citation_file(cited, facts.author, url).encode()}
    data[MANIFEST] = manifest(data, found, cited)
    made = [Repository("dataset", hub_name or "dataset", cited.title, data)]
    for model, folder in folders.items():
        here = asked.storage.download(folder, cache)
        weights = {name: here / name for name in weight_files(asked.storage, folder)}
        name = f"{hub_name}-{model}" if hub_name else f"{MODELS}/{model}"
        title = f"{model}, instruction-tuned in the study {study.name}"
        made.append(Repository("model", name, title, {**weights, **model_texts(facts, model, found.instructed[model])}))
    return made


def _results(storage: Storage) -> Results:
    from analysis.schema import TableError
    from analysis.tables import load

    try:
        results = load(storage.uri)
    except TableError as error:
        raise StudyError(f"--storage {error}") from None
    if results.storage is None:
        raise StudyError(f"--storage {storage}: is not the storage of a study")
    if results.rows.empty:
        raise StudyError(f"--storage {storage}: no trial has a result yet")
    return results


def _without_folders(study: Study) -> Study:
    return validated(public_study(study), f"study {study.name}")


def _check_folder(folder: Path) -> None:
    """Refuses a folder that holds something else, or is none."""
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"--to {folder}: is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "dataset" / MANIFEST).is_file():
        raise StudyError(f"--to {folder}: holds something else; give a new folder, or hub:ORG/NAME")


def _write(repository: Repository, folder: Path) -> None:
    target = Storage(folder / repository.name)
    try:
        for path in sorted((folder / repository.name).rglob("*")):
            if path.is_file() and is_left_over(repository, path.relative_to(folder / repository.name).as_posix()):
                path.unlink()
        for name, content in repository.files.items():
            if isinstance(content, bytes):
                target.write(name, content)
            else:
                _copy(content, folder / repository.name / name)
    except OSError as error:
        raise StudyError(f"--to {folder}: cannot be written: {error.strerror or error}") from None


def _copy(source: Path, to: Path) -> None:
    """Copies a file of weights, whole or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, partial)
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def _show(console: Console, repository: Repository, *, public: bool) -> None:
    visible = "public, seen by everyone" if public else "private"
    _say(console, f"{repository.kind} {repository.name} ({visible})")
    for name, content in repository.files.items():
        _say(console, f"  {amount(content_size(content)):>9}  {name}")


def _in_words(repositories: Iterable[Repository]) -> str:
    parts = [repository.files for repository in repositories]
    total = sum(content_size(content) for files in parts for content in files.values())
    models = f" and {len(parts) - 1} model{'s' * (len(parts) > 2)}" if len(parts) > 1 else ""
    return f"1 data set{models}, {sum(map(len, parts))} files, {amount(total)}"


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)
