"""One trial inside Tune: a warm process that runs trial after trial and writes each one's record itself, last.

In: Tune's config, which is a trial's fields. Out: `records/<trial_id>.json`, or `failures/<trial_id>.json`; predictions; a log
file; and the row that Tune keeps in its own folder. A storage that cannot be written for a while is waited for.

The process answers the calls that Tune makes of a trainable, and imports neither Tune nor anything else before a trial needs
it: its imports take 1.3 s of CPU (`ray` itself 0.8), those of Tune's class 2.5.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import ray

from xlmr_sweep.cluster.failures import attempt_line, failure_of
from xlmr_sweep.cluster.gang import Gang
from xlmr_sweep.cluster.nodes import oom_kills
from xlmr_sweep.cluster.process_titles import process_title
from xlmr_sweep.cluster.trial_log import keep_log, move_log, next_attempt, trial_log
from xlmr_sweep.cluster.watchdog import Watchdog
from xlmr_sweep.cluster.work import COLLECTIVE_TIMEOUT_S, TrialRunner, Work
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.causes import TrialFailedError
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.artifacts import predictions_file, record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import COLUMNS, write_failure, write_record
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import TEMPLATE_VERSION

log = logging.getLogger("xlmr_sweep.trial")

START_S = 2 * COLLECTIVE_TIMEOUT_S
"""A trial's first step may take this long whatever `cluster.trial_stall_s` is: imports, data, weights, and ranks that meet."""

LAST_WORDS_S = 20.0
"""A process that ends itself takes at most so long to leave its failure and its log: the storage may hang too."""


@dataclass(frozen=True)
class Setup:
    """What all trial processes of a run are made with."""

    study: Study
    storage: Storage
    work: Work
    git_commit: str | None


class TrialProcess:
    """A warm process. Its warm state outlives a trial; nothing that a trial trained does.

    Torch is imported with the first trial's work, not before.

    Args:
        config: the first trial.
        setup: of the run.
    """

    def __init__(self, config: dict[str, Any], setup: Setup) -> None:
        self._study, self._git_commit = setup.study, setup.git_commit
        self._home = setup.storage.patient(setup.study.cluster.storage_patience_s)
        self._runner: TrialRunner | None = None
        self._gang = Gang(setup.study, self._home, setup.work, self._end_process)
        self.reset(config)

    def reset(self, config: dict[str, Any]) -> bool:
        """Takes the next trial in the same process. Tune's call."""
        self._config = config
        self._cell, self._width, self._token = Trial(**config["trial"]), Width(**config["width"]), config["token"]
        return True

    def train(self) -> dict[str, Any]:
        """Runs the trial to its end and returns its row with what Tune adds to one. Tune's call.

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
        """Ends the other ranks with this one. Tune's call."""
        self._leave()

    def step(self) -> dict[str, Any]:
        """Runs the trial to its end and returns its row, or that of a record that is there.

        Raises:
            TrialFailedError: with the failure, which was also written; a process in which a trial failed is not used again.
        """
        trial, storage = self._cell, self._home
        kept = storage.read_json(record_file(trial.trial_id))
        if kept is not None:
            # An earlier attempt wrote its record and died before Tune heard of it.
            return {column: kept[column] for column in COLUMNS if column in kept}
        self._attempt = next_attempt(storage, trial)
        with process_title(trial, 0, self._width.num_bundles), trial_log(storage, trial) as self._log:
            log.info(attempt_line(self._attempt, trial, oom_kills(), self._token))
            # A process that is killed leaves no more than this in a storage that is on no local disk.
            with suppress(OSError, StudyError):
                keep_log(storage.patient(0), trial, self._log)
            started = environment.now()
            try:
                return self._run(trial, started)
            except Exception as error:
                # Kept here, where class, host and traceback are known.
                log.exception("trial %s failed", trial.cell)
                failure = dict(self._gang.failure(failure_of(error)))
                self._write_failure(failure)
                self._leave()
        raise TrialFailedError(failure)

    def _write_failure(self, failure: dict[str, Any]) -> None:
        failure |= {"attempt": self._attempt, "token": self._token, "time": environment.now()}
        # The driver, which gets it too, writes it again where this storage cannot be written.
        with suppress(OSError, StudyError):
            write_failure(self._home.patient(0), self._cell, failure)

    def _end_process(self, failure: Mapping[str, Any]) -> None:
        """Ends this process from a watching thread, whatever the trial is stuck in. Tune sees a dead worker."""
        leaving = threading.Thread(target=self._leave_word, args=(dict(failure),), daemon=True, name="last words")
        leaving.start()
        leaving.join(LAST_WORDS_S)
        os._exit(1)

    def _leave_word(self, failure: dict[str, Any]) -> None:
        # Here too: the log may lie on the very mount that hangs.
        log.error("trial %s: %s: %s\n%s", self._cell.cell, *(failure[key] for key in ("error_class", "message", "traceback")))
        self._write_failure(failure)
        move_log(self._home.patient(0), self._cell, self._log)

    def _run(self, trial: Trial, started: str) -> dict[str, Any]:
        limits = self._study.cluster
        with Watchdog(limits.trial_timeout_s, limits.trial_stall_s, self._on_hang, start_s=START_S) as watchdog:
            # Reading data or saving weights it may wait too; what is written below is watched by nobody.
            self._home.on_wait = watchdog.excuse
            if self._runner is None:
                self._runner = self._gang.join(self._width.num_bundles, self._width.gpus or 1.0)
        if self._width.num_bundles > 1:
            self._prepare(trial)
        with Watchdog(limits.trial_timeout_s, limits.trial_stall_s, self._on_hang, start_s=START_S) as watchdog:
            self._home.on_wait = watchdog.excuse
            with self._gang.at_work(trial):
                outcome = self._runner.run(trial, watchdog.beat)
        width = self._width
        row = {
            **trial.as_dict(),
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
        if outcome.predictions:
            import pyarrow as pa
            from pyarrow import parquet

            sink = pa.BufferOutputStream()
            parquet.write_table(pa.table(outcome.predictions), sink)
            self._home.write(predictions_file(trial.trial_id), sink.getvalue().to_pybytes())
        spec = self._study.model_dump(mode="json", include={"finetune", "instruct", "data", "instructions"})
        spec["model_spec"] = self._study.model(trial.model).model_dump(mode="json")
        spec["task_spec"] = self._study.task(trial.task).model_dump(mode="json")
        spec["template_version"] = TEMPLATE_VERSION
        record = {**row, "spec": {**trial.as_dict(), **spec}, "resolved": self._runner.resolved(trial)}
        write_record(self._home, record)
        log.info("score %.4f in %.1f s", row["score"], row["total_time_s"])
        return row

    def _prepare(self, trial: Trial) -> None:
        """Has rank 0 get what it alone reads while the others still wait for nothing: 43 GB from the hub may take an hour."""
        limit = self._study.cluster.trial_timeout_s
        with Watchdog(limit, limit, self._on_hang, start_s=limit) as watchdog:
            self._home.on_wait = watchdog.excuse
            assert self._runner is not None, "prepare before join"
            self._runner.prepare(trial)

    def _leave(self) -> None:
        """Ends the other ranks and this one's runner."""
        runner, self._runner = self._runner, None
        self._gang.end(runner)

    def _on_hang(self, error: Exception, stack: str) -> None:
        self._end_process({**failure_of(error), "traceback": stack})
