"""A trial's process ends itself when its trial hangs, whatever else hangs too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, time
from xlmr_sweep.cluster import trial_process, watchdog
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

class HangingStorage(Storage):
    hangs = False

    def _write(self, name, data):
        if HangingStorage.hangs:
            print("the storage hangs", flush=True)
            time.sleep(600)
        super()._write(name, data)

class HangingWork:
    def open(self, study, storage, rank_info):
        return self

    def run(self, trial, on_step):
        HangingStorage.hangs = True
        time.sleep(600)

trial_process.LAST_WORDS_S = 0.5
# Only the watching thread is tested here. On a slow machine the C runtime's timer could be first.
watchdog.faulthandler.dump_traceback_later = lambda *args, **options: None
study = load_study("paper")
study = study.replaced(cluster=study.cluster.model_copy(update={"trial_timeout_s": 0.5}))
setup = trial_process.Setup(study, HangingStorage(f"local://{sys.argv[1]}"), HangingWork(), None)
config = {"trial": expand(study)[0].as_dict(), "width": Width(1, 1).as_dict(), "token": "run"}
trial_process.TrialProcess(config, setup).step()
"""


def test_a_process_whose_trial_hangs_ends_itself_also_where_the_storage_hangs(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    runs = tmp_path / "runs"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(runs)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    (log,) = tmp_path.glob("*.log")
    assert "TrialTimeoutError" in log.read_text()
    assert "the storage hangs" in log.read_text()
