"""Refuses work on other files than those that it was planned with. In: a study and a trial or job. Out: an error, or none.

An id is made of the contents of its files when the command starts. Files may change while the command runs, and a node may
hold other files at the same place. A score of such files must not be kept under that id.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.environment import host
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.model_files import find_model_files
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial, id_now
from xlmr_sweep.study.spec import Study

Stats = tuple[tuple[str, int, int, int], ...]


class PlannedFiles:
    """The files of a study as this process last saw them.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._known: dict[tuple[str, ...], Stats] = {}
        """Sizes and times of the files of models with which trials had their ids."""

    def check(self, trial: Trial) -> None:
        """Checks the files that a trial's process reads. Contents are hashed only where sizes or times are new to this node.

        Raises:
            StudyError: if they are not those of the trial's id.
        """
        cell = (trial.model, trial.paradigm, trial.task, trial.variant, trial.prompt)
        found = self._stats(trial)
        if self._known.get(cell) == found:
            return
        if id_now(self._study, trial) != trial.trial_id:
            raise _others(trial.cell, self._folders(trial))
        self._known[cell] = found

    def _stats(self, trial: Trial) -> Stats:
        model = self._study.model(trial.model)
        folders = [folder for folder in (model.folder, model.instructed_folder) if folder is not None and folder.is_dir()]
        files = [(path, path.stat()) for folder in folders for path in find_model_files(folder).read_by_loading()]
        return tuple((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in files)

    def _folders(self, trial: Trial) -> list[Path | None]:
        """Returns the folders whose contents are part of the trial's id."""
        study, model = self._study.at(trial.variant, trial.prompt), self._study.model(trial.model)
        folders = [model.folder, study.data.folder]
        if trial.paradigm == "instructed":
            folders.append(model.instructed_folder or _here(study.instructions.folder))
        return folders


def check_job(name: str | None, study: Study, model: ModelSpec) -> None:
    """Checks the files that an instruction job starts from.

    Args:
        name: the job's name, which the driver made of its files; None where no driver did.
        study: the study.
        model: the job's model.

    Raises:
        StudyError: if they are not those of the name.
    """
    if name not in (None, recipe_folder_name(study, model)):
        raise _others(f"instruction job {name}", [model.folder, _here(study.instructions.folder)])


def _here(folder: Path | str | None) -> Path | None:
    return folder if isinstance(folder, Path) else None


def _others(what: str, folders: Iterable[Path | None]) -> StudyError:
    named = " or ".join(str(folder) for folder in folders if folder is not None)
    return StudyError(
        f"{what}: was planned with other files than {host()} has in {named}: they changed since the command started, or this "
        "node has other files; give every node the same files and start the command again"
    )
