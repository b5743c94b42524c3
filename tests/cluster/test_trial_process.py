"""A trial's process ends itself when its trial hangs, whatever else hangs too, and not when it waits for the storage.

The processes have a clock of their own, so it makes no difference how fast the machine is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = """
import sys, threading, time
from types import SimpleNamespace
from xlmr_sweep.cluster import trial_process, watchdog
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.storage import files
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.outcome import Outcome

now, looks = [0.0], [0]

def clock():
    looks[0] += threading.current_thread().name == "watchdog"
    return now[0]

watchdog.time = SimpleNamespace(monotonic=clock)
# Only the watching thread is tested here. On a slow machine the C runtime's timer could be first.
watchdog.faulthandler.dump_traceback_later = lambda *args, **options: None

def run(storage, work, limits):
    study = load_study("paper")
    study = study.replaced(cluster=study.cluster.model_copy(update=limits))
    setup = trial_process.Setup(study, storage, work, None)
    config = {"trial": expand(study)[0].as_dict(), "width": Width(1, 1).as_dict(), "token": "run"}
    trial_process.TrialProcess(config, setup).step()
"""

HANGS = """
said = threading.Event()

class HangingStorage(Storage):
    hangs = False

    def write_once(self, name, data):
        if HangingStorage.hangs:
            print("the storage hangs", flush=True)
            said.set()
            time.sleep(600)
        super().write_once(name, data)

class HangingWork:
    def open(self, study, storage, rank_info):
        return self

    def run(self, trial, on_step):
        HangingStorage.hangs = True
        now[0] = 1000.0
        time.sleep(600)

class LastWords(threading.Thread):
    def join(self, timeout=None):
        said.wait()
        super().join(timeout)

trial_process.threading = SimpleNamespace(Thread=LastWords)
trial_process.LAST_WORDS_S = 0.1
run(HangingStorage(f"local://{sys.argv[1]}"), HangingWork(), {"trial_timeout_s": 0.5})
"""

WAITS = """
waited = [0.0]

def pause(seconds):
    # The watchdog looks twice before the pause is over, and twice after it.
    for step in (0.0, seconds):
        now[0] += step
        before = looks[0]
        while looks[0] < before + 2:
            time.sleep(0.01)
    waited[0] += seconds

files.time = SimpleNamespace(monotonic=lambda: now[0], sleep=pause)

class FullStorage(Storage):
    def write_once(self, name, data):
        if name.startswith("weights/") and waited[0] < 4 * STALL_S:
            raise OSError(28, "No space left on device")
        super().write_once(name, data)

class SavingWork:
    def open(self, study, storage, rank_info):
        self.storage = storage
        return self

    def run(self, trial, on_step):
        on_step(1)
        self.storage.write(f"weights/{trial.trial_id}", b"weights")
        return Outcome({"score": 0.5, "metric": "accuracy", "total_time_s": 1.0})

    def resolved(self, trial):
        return {}

    def close(self):
        pass

STALL_S = 0.2
run(FullStorage(sys.argv[1]), SavingWork(), {"trial_stall_s": STALL_S, "storage_patience_s": 1000})
"""


def start(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script whose storage is `tmp_path / "runs"`."""
    command = [sys.executable, "-c", START + script, str(tmp_path / "runs")]
    return subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False)


def test_a_process_whose_trial_hangs_ends_itself_also_where_the_storage_hangs(tmp_path: Path) -> None:
    done = start(HANGS, tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    (log,) = tmp_path.glob("*.log")
    assert "TrialTimeoutError" in log.read_text()
    assert "the storage hangs" in log.read_text()


def test_a_trial_that_waits_for_the_storage_is_not_taken_for_hung(tmp_path: Path) -> None:
    done = start(WAITS, tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "runs" / "records").glob("*.json")
    assert (tmp_path / "runs" / "weights" / record.stem).read_bytes() == b"weights"
    assert not list((tmp_path / "runs" / "failures").glob("*.json"))
