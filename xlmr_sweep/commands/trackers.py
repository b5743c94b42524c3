"""Trackers of a study: TensorBoard, Weights & Biases, MLflow. In: losses, the table of trials, a report. Out: one run each.

A study is one run, also over several commands; its trials are rows of a table and never runs of their own. Each class imports its
package when it is made, so a package that is not asked for is not needed.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from xlmr_sweep.storage.artifacts import INSTRUCT, STUDY_FILE
from xlmr_sweep.storage.records import AXES
from xlmr_sweep.study.spec import AT
from xlmr_sweep.study.variant_spec import JOINED

PROJECT = "xlmr_sweep"
"""The project of Weights & Biases, and MLflow's experiment, unless the environment names another."""

Row = Mapping[str, Any]
Curve = Sequence[tuple[int, float]]


class Tracker(Protocol):
    """One tracker of one study."""

    kept: dict[str, Any]
    """What the next command needs to go on with the same run; the storage remembers it."""

    def loss(self, model: str, step: int, value: float) -> None:
        """Takes a point of an instruction job that runs."""

    def results(self, rows: Sequence[Row], curves: Mapping[str, Curve], report: Callable[[], Path]) -> None:
        """Takes all that there is at the end of a command.

        Args:
            rows: one a completed trial, with the columns of `results.parquet`.
            curves: steps and losses of each model's instruction job that is done.
            report: makes the report and returns its file.
        """

    def close(self) -> None:
        """Ends what this process wrote. The run itself can be gone on with."""


class TensorBoardTracker:
    """Event files in `study/` below a folder: losses as they come, mean scores over sizes, the trials as a table of text.

    `study/` is written anew at the end of a command, so that no curve is there twice. Beside it lie the files that instruction
    jobs write themselves, so one TensorBoard shows both.
    """

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path, kept: dict[str, Any]) -> None:
        self._make = _summary_writer()
        self._folder, self.kept = folder / "study", kept
        self._writer = self._make(str(self._folder), flush_secs=5)

    def loss(self, model: str, step: int, value: float) -> None:
        """Writes a point, to be seen at once."""
        self._writer.add_scalar(_loss_of(model), value, step)
        self._writer.flush()

    def results(self, rows: Sequence[Row], curves: Mapping[str, Curve], report: Callable[[], Path]) -> None:
        """Writes the folder anew, from all that there is."""
        self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = self._make(str(self._folder))
        for model, curve in curves.items():
            for step, value in curve:
                self._writer.add_scalar(_loss_of(model), value, step)
        for (tag, size), mean in mean_scores(rows).items():
            self._writer.add_scalar(tag, mean, size)
        self._writer.add_text("trials", _table(rows))

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _summary_writer() -> type[Any]:
    """Returns tensorboardX's writer, imported without torch where this process has none yet.

    The package imports torch to recognise tensors, which are never written here. In a driver that would be half of all its
    imports, 3 s of CPU (`docs/log.md`, 2026-11-28).
    """
    is_hidden = "torch" not in sys.modules
    if is_hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if is_hidden:
            del sys.modules["torch"]
    return cast(type[Any], SummaryWriter)


class WandbTracker:
    """One run of Weights & Biases. `WANDB_MODE=offline` keeps it on this machine."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path, kept: dict[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self.kept: dict[str, Any] = {"id": kept.get("id") or uuid.uuid4().hex[:8], "curves": list(kept.get("curves", ()))}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.kept["id"],
            resume="allow",
            name=name,
            config=dict(config),
            dir=str(folder),
        )

    def loss(self, model: str, step: int, value: float) -> None:
        """Logs a point over the job's own steps."""
        self._point(model, step, value)
        if model not in self.kept["curves"]:
            self.kept["curves"].append(model)

    def _point(self, model: str, step: int, value: float) -> None:
        self._run.define_metric(f"{INSTRUCT}/{model}/loss", step_metric=f"{INSTRUCT}/{model}/step")
        self._run.log({f"{INSTRUCT}/{model}/step": step, f"{INSTRUCT}/{model}/loss": value})

    def results(self, rows: Sequence[Row], curves: Mapping[str, Curve], report: Callable[[], Path]) -> None:
        """Logs curves that are not there yet, the table of trials, and the report as an artifact."""
        for model, curve in curves.items():
            if model not in self.kept["curves"]:
                for step, value in curve:
                    self._point(model, step, value)
                self.kept["curves"].append(model)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = self._wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
        self._run.log({"trials": table})
        artifact = self._wandb.Artifact(f"report-{self.kept['id']}", type="report")
        artifact.add_file(str(report()))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """Ends the process that sends. The next command goes on with the same run."""
        self._run.finish()


class MlflowTracker:
    """One run of MLflow: on the server of `MLFLOW_TRACKING_URI`, else in the storage's folder."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path, kept: dict[str, Any]) -> None:
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        # A database, because the newer versions no longer write runs as plain files.
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=where)
        if kept.get("run_id"):
            self.kept = {"run_id": kept["run_id"], "curves": list(kept.get("curves", ()))}
            self._client.update_run(self.kept["run_id"], status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        place = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder / "artifacts").as_uri()
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, artifact_location=place)
        run = self._client.create_run(experiment_id, run_name=name)
        self.kept = {"run_id": run.info.run_id, "curves": []}
        self._client.log_dict(self.kept["run_id"], dict(config), STUDY_FILE)

    def loss(self, model: str, step: int, value: float) -> None:
        """Logs a point over the job's own steps."""
        self._client.log_metric(self.kept["run_id"], _loss_of(model), value, step=step)
        if model not in self.kept["curves"]:
            self.kept["curves"].append(model)

    def results(self, rows: Sequence[Row], curves: Mapping[str, Curve], report: Callable[[], Path]) -> None:
        """Logs curves that are not there yet, the table of trials, and the report as an artifact."""
        run_id = self.kept["run_id"]
        for model, curve in curves.items():
            if model not in self.kept["curves"]:
                for step, value in curve:
                    self._client.log_metric(run_id, _loss_of(model), value, step=step)
                self.kept["curves"].append(model)
        self._client.log_metric(run_id, "trials_done", len(rows))
        columns = _columns(rows)
        data = [[row.get(name) for name in columns] for row in rows]
        self._client.log_dict(run_id, {"columns": columns, "data": data}, "trials.json")
        self._client.log_artifact(run_id, str(report()), "report")

    def close(self) -> None:
        """Marks the run as ended. The next command goes on with the same run."""
        self._client.set_terminated(self.kept["run_id"])


TRACKERS: Mapping[str, Callable[[str, Mapping[str, Any], Path, dict[str, Any]], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}

_COLUMNS = ["model", "paradigm", "task", "train_size", "seed", "score", "metric", "train_loss", "total_time_s", "trial_id"]


def _loss_of(job: str) -> str:
    """Returns the name of a job's curve."""
    return f"{INSTRUCT}/{_as_path(job)}/loss"


def _as_path(name: str) -> str:
    """Returns a name without the signs of variants. MLflow refuses them, and TensorBoard would make `_` of all."""
    return name.replace(AT, "/").replace(JOINED, "/")


def mean_scores(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Returns the mean score over seeds by `score/<task>/<model>/<paradigm>` and training size.

    Where a study has variants or several prompts, their names follow the paradigm.
    """
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        axes = [_as_path(row[name]) for name in AXES if row.get(name)]
        found["/".join(["score", row["task"], row["model"], row["paradigm"], *axes]), row["train_size"]].append(row["score"])
    return {key: sum(scores) / len(scores) for key, scores in sorted(found.items())}


def _columns(rows: Sequence[Row]) -> list[str]:
    return [*_COLUMNS, *(name for name in AXES if any(row.get(name) for row in rows))]


def _table(rows: Sequence[Row]) -> str:
    """Returns the trials as a table in Markdown, which TensorBoard shows."""
    columns = _columns(rows)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row.get(name, "")) for name in columns) for row in rows]
    return "\n".join(lines)
