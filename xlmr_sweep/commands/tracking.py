"""Tells a study's trackers how its run goes. In: the study, its storage. Out: `tracking/` in the storage, and trackers' runs.

If a tracker fails, the user is told once, and the tracker is not used again. No tracker can end a study.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xlmr_sweep.commands.trackers import TRACKERS, Curve, Row, Tracker
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import TRACKING, instruct_folder, manifest_of, tracking_file, tracking_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressReporter, loss_of
from xlmr_sweep.study.spec import Study

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


def check_trackers(study: Study) -> None:
    """Refuses trackers whose package is not installed, before anything starts.

    Raises:
        StudyError: naming the package.
    """
    for name in study.track:
        if find_spec(PACKAGES[name]) is None:
            extra = "pip install tensorboardX" if name == "tensorboard" else f"pip install 'xlmr_sweep[{name}]'"
            raise StudyError(f"track: {name} needs the package {PACKAGES[name]}, which is not here; {extra}, or leave it out")


class Tracking:
    """The trackers of one command.

    Args:
        study: the study.
        storage: its storage. Where that is no folder of this machine, files are made in a temporary one and copied at the end.
        say: tells the user a line.
    """

    def __init__(self, study: Study, storage: Storage, say: Callable[[str], None]) -> None:
        self._study, self._storage, self._say = study, storage, say
        self._trackers: dict[str, Tracker] | None = None
        self._local = storage.local
        self._copies: tempfile.TemporaryDirectory[str] | None = None

    def watched(self, model: str, step: ProgressReporter) -> ProgressReporter:
        """Returns a step of an instruction job that also tells the trackers its losses."""
        return _WatchedStep(self, model, step)

    def loss(self, model: str, step: int, value: float) -> None:
        """Tells a loss of an instruction job."""
        self._each(lambda tracker: tracker.loss(model, step, value))

    def finish(self, rows: Sequence[Row]) -> None:
        """Tells the trackers what there is at the end of a command, and closes them."""
        curves = self._curves()
        with tempfile.TemporaryDirectory(prefix="xlmr_sweep-report-") as folder:
            report: list[Path] = []

            def made() -> Path:
                if not report:
                    report.append(self._report(Path(folder)))
                return report[0]

            self._each(lambda tracker: tracker.results(rows, curves, made))
        self._each(lambda tracker: tracker.close())
        self._keep()

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._opened().items()):
            try:
                action(tracker)
            except Exception as error:
                # Clients of trackers raise many unrelated classes. None of them concerns the study.
                self._fails(name, error)

    def _opened(self) -> dict[str, Tracker]:
        if self._trackers is None:
            from xlmr_sweep.commands.publish_data import public_study

            self._trackers = {}
            kept = self._kept()
            for name in self._study.track:
                folder = self._folder() / tracking_folder(name)
                try:
                    config = public_study(self._study)
                    self._trackers[name] = TRACKERS[name](self._study.name, config, folder, kept.get(name, {}))
                except Exception as error:
                    self._fails(name, error)
            self._keep()
        return self._trackers

    def _fails(self, name: str, error: Exception) -> None:
        if self._trackers is not None:
            self._trackers.pop(name, None)
        said = " ".join(str(error).split())[:200]
        self._say(f"Tracking by {name} failed, and the run goes on without it: {type(error).__name__}: {said}")

    def _folder(self) -> Path:
        if self._local is None:
            self._copies = tempfile.TemporaryDirectory(prefix="xlmr_sweep-tracking-")
            self._local = Path(self._copies.name)
        return self._local

    def _kept(self) -> dict[str, Any]:
        try:
            kept = self._storage.read_json(tracking_file())
        except (OSError, StudyError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _keep(self) -> None:
        """Remembers the runs, and copies files to a storage that is far."""
        trackers = self._trackers or {}
        with suppress(OSError):
            kept = {name: tracker.kept for name, tracker in trackers.items() if tracker.kept}
            if kept:
                self._storage.write_json(tracking_file(), {**self._kept(), **kept})
            if self._copies is not None and (Path(self._copies.name) / TRACKING).is_dir():
                self._storage.upload(Path(self._copies.name) / TRACKING, TRACKING, beside=True)

    def _curves(self) -> dict[str, Curve]:
        found: dict[str, Curve] = {}
        folders: set[str] = set()
        for name in self._study.possible_jobs:
            with suppress(OSError, StudyError):
                folder = instruct_folder(self._study.of_job(name), self._study.model(name))
                if folder in folders:
                    # A variant that only changes prompts has the weights of another.
                    continue
                folders.add(folder)
                manifest: Mapping[str, Any] = self._storage.read_json(manifest_of(folder)) or {}
                if manifest.get("loss_curve"):
                    found[name] = [(int(step), float(loss)) for step, loss in manifest["loss_curve"]]
        return found

    def _report(self, folder: Path) -> Path:
        from analysis.report import build_report

        # Without examples: their texts are their publisher's.
        return build_report(self._storage.uri, folder, examples=False).html


class _WatchedStep:
    def __init__(self, tracking: Tracking, model: str, step: ProgressReporter) -> None:
        self._tracking, self._model, self._step, self._last = tracking, model, step, 0

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Shows how far the job is, and tells its newest loss once."""
        self._step.update(done, total, note)
        found = loss_of(note)
        if found is not None and found[0] > self._last:
            self._last = found[0]
            self._tracking.loss(self._model, *found)
