"""One trial inside Tune: a warm process that runs trial after trial and writes each one's record itself, last.

In: Tune's config, which holds the trial's fields. Out: `records/<trial_id>.json`, or `failures/<trial_id>.json`; predictions; a
log file; and the row that Tune keeps in its own folder. The process waits for a storage that cannot be written for a while.

The process answers the calls that Tune makes to a trainable, but it does not import Tune: its own imports take 1.3 s of CPU
(0.8 of them for `ray`), those of Tune's class take 2.5 s. Everything else is imported when a trial needs it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import ray

from xlmr_sweep.cluster.failures import attempt_line, failure_of
from xlmr_sweep.cluster.gang import Gang
from xlmr_sweep.cluster.log_copy import keep_log, move_left_logs, move_log
from xlmr_sweep.cluster.nodes import oom_kills
from xlmr_sweep.cluster.process_titles import process_title, said_in_log
from xlmr_sweep.cluster.trial_log import log_name, next_attempt, trial_log
from xlmr_sweep.cluster.watchdog import Watchdog
from xlmr_sweep.cluster.work import COLLECTIVE_TIMEOUT_S, TrialRunner, Work
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.causes import TrialFailedError
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.artifacts import predictions_file, record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import result_columns, spec_of, write_failure, write_record
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.outcome import Outcome

log = logging.getLogger("xlmr_sweep.trial")

START_S = 2 * COLLECTIVE_TIMEOUT_S
"""A trial's first step may take this long, also where `cluster.trial_stall_s` is less: it includes imports, data and weights."""

LAST_WORDS_S = 20.0
"""A process that ends itself has this long to write its failure and its log. The storage may hang too."""


@dataclass(frozen=True)
class Setup:
    """What all trial processes of a run have in common."""

    study: Study
    storage: Storage
    work: Work
    git_commit: str | None


class TrialProcess:
    """A warm process. Its warm state outlives a trial; nothing that a trial trained does.

    Args:
        config: the first trial.
        setup: the run's setup.
    """

    def __init__(self, config: dict[str, Any], setup: Setup) -> None:
        self._study, self._git_commit = setup.study, setup.git_commit
        self._storage = setup.storage.patient(setup.study.cluster.storage_patience_s)
        self._runner: TrialRunner | None = None
        self._gang = Gang(setup.study, self._storage, setup.work, self._end_process)
        self.reset(config)

    # Not kept for the dashboard's list of tasks, which would take twice as long to load.
    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def reset(self, config: dict[str, Any]) -> bool:
        """Takes the next trial in the same process. Called by Tune."""
        self._config = config
        self._trial, self._width, self._token = Trial(**config["trial"]), Width(**config["width"]), config["token"]
        return True

    def train(self) -> dict[str, Any]:
        """Runs the trial to its end and returns its row with the columns that Tune adds. Called by Tune.

        Raises:
            TrialFailedError: see `step`.
        """
        began = time.monotonic()
        row = self.step()
        seconds, now = time.monotonic() - began, datetime.now()
        return {
            **row,
            "done": True,
            "training_iteration": 1,
            "time_this_iter_s": seconds,
            "time_total_s": seconds,
            "date": now.strftime("%Y-%m-%d_%H-%M-%S"),
            "timestamp": int(now.timestamp()),
            "pid": os.getpid(),
            "hostname": environment.host(),
            "node_ip": ray.util.get_node_ip_address(),
            "config": self._config,
        }

    def stop(self) -> None:
        """Ends the other ranks with this one. Called by Tune."""
        self._leave()

    def step(self) -> dict[str, Any]:
        """Runs the trial to its end and returns its row. A trial that has a record already is not run again.

        Raises:
            TrialFailedError: with the failure, which was also written. A process in which a trial failed is not used again.
        """
        trial, storage = self._trial, self._storage
        kept = storage.read_json(record_file(trial.trial_id))
        if kept is not None:
            # An earlier attempt wrote its record and died before Tune heard of it.
            return {column: kept[column] for column in result_columns(self._study) if column in kept}
        # Of an attempt that died here with its driver, which could not fetch them.
        move_left_logs(storage.patient(0), trial)
        self._attempt = next_attempt(storage, trial)
        at = f"trial {trial.cell}, attempt {self._attempt}, log {storage.path(log_name(trial))}"
        with said_in_log(at):
            return self._attempted()

    def _attempted(self) -> dict[str, Any]:
        trial, storage = self._trial, self._storage
        with process_title(trial, 0, self._width.num_bundles), trial_log(storage, trial) as self._log:
            log.info(attempt_line(self._attempt, trial, oom_kills(), self._token))
            # In a storage that is on no local disk, a process that is killed now leaves this line and nothing more.
            with suppress(OSError, StudyError):
                keep_log(storage.patient(0), trial, self._log)
            started = environment.now()
            try:
                return self._run(started)
            except Exception as error:
                # Written here, where class, host and traceback are known.
                log.exception("trial %s failed", trial.cell)
                failure = dict(self._gang.failure(failure_of(error)))
                self._write_failure(failure)
                self._leave()
        raise TrialFailedError(failure)

    def _run(self, started: str) -> dict[str, Any]:
        """Runs the trial and writes what it leaves, the record last. Returns its row."""
        runner = self._joined()
        outcome = self._outcome(runner)
        row = self._row(outcome, started)
        if outcome.predictions:
            self._write_predictions(outcome.predictions)
        record = {**row, "spec": spec_of(self._study, self._trial), "resolved": runner.resolved(self._trial)}
        write_record(self._storage, record)
        log.info("score %.4f in %.1f s", row["score"], row["total_time_s"])
        return row

    def _joined(self) -> TrialRunner:
        """Returns this process's runner, opened and, in a gang, joined to the other ranks for the first trial."""
        limits = self._study.cluster
        with self._watched(limits.trial_timeout_s, limits.trial_stall_s, START_S):
            if self._runner is None:
                self._runner = self._gang.join(self._width.num_bundles, self._width.gpus or 1.0)
        return self._runner

    def _outcome(self, runner: TrialRunner) -> Outcome:
        """Runs the trial on all its ranks."""
        limits = self._study.cluster
        if self._width.num_bundles > 1:
            # Rank 0 reads what it alone needs before the others begin to wait for it: 43 GB from the hub may take an hour.
            with self._watched(limits.trial_timeout_s, limits.trial_timeout_s, limits.trial_timeout_s):
                runner.prepare(self._trial)
        with self._watched(limits.trial_timeout_s, limits.trial_stall_s, START_S) as watchdog, self._gang.at_work(self._trial):
            return runner.run(self._trial, watchdog.beat)

    @contextmanager
    def _watched(self, timeout_s: float, stall_s: float, start_s: float) -> Iterator[Watchdog]:
        """Ends this process if the block hangs. Waiting for the storage is no hang."""
        with Watchdog(timeout_s, stall_s, self._on_hang, start_s=start_s) as watchdog:
            self._storage.on_wait = watchdog.excuse
            yield watchdog

    def _row(self, outcome: Outcome, started: str) -> dict[str, Any]:
        width = self._width
        return {
            **self._trial.as_dict(),
            **outcome.columns,
            "num_gpus": width.total_gpus,
            "num_cpus": width.total_cpus,
            "num_ranks": width.num_bundles,
            "host": environment.host(),
            "attempt": self._attempt,
            "started_at": started,
            "finished_at": environment.now(),
            **environment.version_columns(),
            "git_commit": self._git_commit,
        }

    def _write_predictions(self, predictions: Mapping[str, Any]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(predictions), sink)
        self._storage.write(predictions_file(self._trial.trial_id), sink.getvalue().to_pybytes())

    def _write_failure(self, failure: dict[str, Any]) -> None:
        failure |= {"attempt": self._attempt, "token": self._token, "time": environment.now()}
        # The driver gets the failure too, and writes it again where this write fails.
        with suppress(OSError, StudyError):
            write_failure(self._storage.patient(0), self._trial, failure)

    def _leave(self) -> None:
        """Ends the other ranks and this one's runner."""
        runner, self._runner = self._runner, None
        self._gang.end(runner)

    def _on_hang(self, error: Exception, stack: str) -> None:
        self._end_process({**failure_of(error), "traceback": stack})

    def _end_process(self, failure: Mapping[str, Any]) -> None:
        """Ends this process from a watching thread, whatever the trial is stuck in. Tune sees a dead worker."""
        leaving = threading.Thread(target=self._leave_word, args=(dict(failure),), daemon=True, name="last words")
        leaving.start()
        leaving.join(LAST_WORDS_S)
        os._exit(1)

    def _leave_word(self, failure: dict[str, Any]) -> None:
        # Logged in this thread too: the log may lie on the very mount that hangs.
        log.error("trial %s: %s: %s\n%s", self._trial.cell, *(failure[key] for key in ("error_class", "message", "traceback")))
        self._write_failure(failure)
        move_log(self._storage.patient(0), self._trial, self._log)
