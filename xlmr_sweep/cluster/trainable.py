"""One trial inside Tune: a warm process that runs trial after trial and writes each one's record itself, last.

In: Tune's config, which is a trial's fields. Out: `records/<trial_id>.json`, or `failures/<trial_id>.json`; predictions; a log
file; and the row that Tune keeps in its own folder.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from ray import tune

from xlmr_sweep import provenance
from xlmr_sweep.cluster.gang import Gang
from xlmr_sweep.cluster.resources import Width
from xlmr_sweep.cluster.work import Bench, Work
from xlmr_sweep.plan import Trial
from xlmr_sweep.records import COLUMNS, read_failure, write_failure, write_record
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study

log = logging.getLogger("xlmr_sweep.trial")


ATTEMPT = "attempt"
"""What a trial's log says at each start."""


class TrialTimeoutError(Exception):
    """A trial took longer than `cluster.trial_timeout_s`."""


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """A warm process. Its workbench outlives a trial; nothing that a trial trained does."""

    def setup(self, config: dict[str, Any], study: Study, storage: Storage, work: Work, git_commit: str | None) -> None:
        """Takes the first trial. Torch is imported with the first trial's work, not before.

        Tune's class has attributes of its own, `_storage` and `_trial` among them, so ours have other names.
        """
        self._study, self._home, self._git_commit = study, storage, git_commit
        self._bench: Bench | None = None
        self._gang = Gang(study, storage, work)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial in the same process."""
        self._cell, self._width = Trial(**new_config["trial"]), Width(**new_config["width"])
        return True

    def step(self) -> dict[str, Any]:
        """Runs the trial to its end and returns its row; a failed trial returns a row without a score."""
        trial, storage = self._cell, self._home
        kept = storage.read_json(f"records/{trial.trial_id}.json")
        if kept is not None:
            # An earlier attempt wrote its record and died before Tune heard of it.
            return {**{column: kept[column] for column in COLUMNS if column in kept}, "done": True}
        self._attempt = next_attempt(storage, trial)
        with trial_log(storage, trial.trial_id):
            log.info("%s %d: %s on %s, process %d", ATTEMPT, self._attempt, trial.cell, provenance.host(), os.getpid())
            started = provenance.now()
            try:
                row = self._run(trial, started)
            except Exception as error:
                # Kept here, where class, host and traceback are known. Not raised: Tune would count it like a lost worker.
                log.exception("trial %s failed", trial.cell)
                self._leave()
                failure = failure_of(error, self._attempt)
                write_failure(storage, trial, failure)
                row = {**trial.as_dict(), "failed": True, **{k: failure[k] for k in ("error_class", "message", "host")}}
        return {**row, "done": True}

    def _run(self, trial: Trial, started: str) -> dict[str, Any]:
        if self._bench is None:
            self._bench = self._gang.join(self._width.num_bundles)
        with self._gang.at_work(trial):
            outcome = self._bench.run(trial, self._time_limit())
        width = self._width
        row = {
            **trial.as_dict(),
            **outcome.columns,
            "num_gpus": width.total_gpus,
            "num_cpus": width.total_cpus,
            "num_ranks": width.num_bundles,
            "host": provenance.host(),
            "attempt": self._attempt,
            "started_at": started,
            "finished_at": provenance.now(),
            **provenance.versions(),
            "git_commit": self._git_commit,
        }
        if outcome.predictions:
            sink = pa.BufferOutputStream()
            parquet.write_table(pa.table(outcome.predictions), sink)
            self._home.write(f"predictions/{trial.trial_id}.parquet", sink.getvalue().to_pybytes())
        spec = self._study.model_dump(mode="json", include={"finetune", "instruct", "data"})
        model = self._study.model(trial.model).model_dump(mode="json")
        record = {**row, "spec": {**trial.as_dict(), "model_spec": model, **spec}, "resolved": self._bench.resolved(trial)}
        write_record(self._home, record)
        log.info("score %.4f in %.1f s", row["score"], row["total_time_s"])
        return row

    def cleanup(self) -> None:
        """Ends the other ranks with this one."""
        self._leave()

    def _leave(self) -> None:
        """Ends the other ranks and the bench: the next trial here starts anew."""
        self._gang.end()
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.close()

    def _time_limit(self) -> Any:
        limit = self._study.cluster.trial_timeout_s
        began = time.monotonic()

        def on_step(step: int) -> None:
            if time.monotonic() - began > limit:
                raise TrialTimeoutError(f"more than cluster.trial_timeout_s = {limit:g} s, at step {step}")

        return on_step


def next_attempt(storage: Storage, trial: Trial) -> int:
    """Returns the number of the trial's next attempt, from 1: after those that its last failure or its log tell of."""
    failure = read_failure(storage, trial.trial_id)
    name = f"logs/{trial.trial_id}.log"
    text = storage.read(name).decode(errors="replace") if storage.exists(name) else ""
    # A process that was killed left no failure, only its log.
    started = [int(number) for number in re.findall(rf" {ATTEMPT} (\d+): ", text)]
    return max([0, int(failure.get("attempt", 0)), *started]) + 1


def failure_of(error: BaseException, attempt: int) -> dict[str, Any]:
    """Returns what `failures/<trial_id>.json` says of an exception."""
    return {
        "error_class": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "host": provenance.host(),
        "attempt": attempt,
        "time": provenance.now(),
    }


@contextmanager
def trial_log(storage: Storage, trial_id: str) -> Iterator[None]:
    """Writes this process's log messages and warnings to `logs/<trial_id>.log` for the length of the block."""
    name = f"logs/{trial_id}.log"
    if storage.local is not None:
        path = storage.local / name
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        path = Path(tempfile.gettempdir()) / f"xlmr_sweep-{trial_id}-{os.getpid()}.log"
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("xlmr_sweep")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(handler)
    warnings.simplefilter("default")
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.getLogger("py.warnings").removeHandler(handler)
        handler.close()
        if storage.local is None:
            storage.write(name, path.read_bytes())
            path.unlink()
