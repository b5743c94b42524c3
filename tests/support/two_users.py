"""Two users of a group work on one study, in one storage and one cache: `python two_users.py FOLDER GROUP USER USER ...`.

In: a folder with `study.yaml`, and in it a folder `shared` that the group may write. Out: what their runs leave in `shared`.
Every turn does all of a study again, over what the turn before left. Each is a fork of this process, so that torch is imported
once. Root starts it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from analysis.report import build_report
from xlmr_sweep.cluster.save_requests import SaveRequests
from xlmr_sweep.cluster.trial_process import Setup, TrialProcess
from xlmr_sweep.cluster.work import FineTuning, RankInfo
from xlmr_sweep.commands.live_file import shown_to_others
from xlmr_sweep.commands.live_table import Snapshot
from xlmr_sweep.commands.tracking import Tracking
from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.causes import TrialFailedError
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.storage.artifacts import RECORDS, instruct_folder, job_folder, manifest_of, record_file
from xlmr_sweep.storage.collect import collect, set_aside, write_results
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.learned import learn
from xlmr_sweep.storage.progress_file import loss_note
from xlmr_sweep.storage.study_file import open_study, write_study
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.instruct import RankContext, train_rank

READS_ALL = 1 << 2
"""CAP_DAC_READ_SEARCH: what is imported late may lie in root's own folder. Writing is up to the modes."""


def become(user: int, group: int) -> None:
    """Makes this process that of a user, who may read all files and writes only where modes allow it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(READS_ALL, READS_ALL)
    if libc.capset(ctypes.byref(header), ctypes.byref(rights)):
        raise OSError(ctypes.get_errno(), "capset")
    os.umask(0o002)


class FailingWork:
    """Work that never begins."""

    def open(self, study: Study, storage: Storage, rank_info: RankInfo) -> Any:
        """Fails."""
        raise StudyError("this trial fails")


def turn(folder: Path, number: int) -> None:
    """Does everything that a study's commands do in one process, as if nothing were done yet."""
    storage = Storage(folder / "shared" / "runs")
    declared = load_study(str(folder / "study.yaml"))
    study = open_study(storage, declared)
    write_study(storage, study.replaced(seeds=[*range(number + 1)]))
    with only_driver(storage), shown_to_others(storage, lambda: Snapshot([], 0, 1, 0.0, "CPUs", 0.0, 0.0, None)):
        begin_anew(storage)
        prepare_task(declared, declared.tasks[0], storage)
        prepare_mixture(declared, storage)
        instruct(declared, storage)
        learn(storage, "tiny", num_gpus=number)
        trials = expand(declared)
        for trial in trials:
            attempt(trial, declared, storage, FineTuning())
        attempt(expand(declared.replaced(seeds=[1]))[0], declared, storage, FailingWork())
    found = collect(storage, declared, trials)
    write_results(storage, found)
    tracking = Tracking(declared, storage, lambda line: fail(line))
    tracking.watched("tiny", SimpleNamespace(update=lambda *given: None)).update(1, 2, loss_note(number, 1.0))
    tracking.finish(found.rows)
    build_report(str(storage.local))


def fail(line: str) -> None:
    """Ends the turn."""
    raise AssertionError(line)


def begin_anew(storage: Storage) -> None:
    """Makes what is whole count as absent, and leaves it where it is. A record and a file that is none are set aside."""
    for path in sorted(storage.local.rglob("manifest.json") if storage.local else []):
        path.unlink()
    names = storage.names(RECORDS, ".json")
    storage.write(f"{RECORDS}/none.json", b"{")
    found = collect(storage)
    found.stale.update(dict.fromkeys((name.removesuffix(".json") for name in names), "begun anew"))
    set_aside(storage, found)


def instruct(study: Study, storage: Storage) -> None:
    """Runs the instruction job on one rank, with a checkpoint and a log, and asks it for another."""
    job = recipe_folder_name(study, study.models[0])

    def keep(step: int, write: Any, told: Any) -> None:
        with tempfile.TemporaryDirectory() as local:
            write(Path(local))
            storage.upload(Path(local), f"{job_folder(job)}/checkpoint-{step}", beside=True)
        told(True)

    SaveRequests(study, storage).ask("tiny")
    config = {"study": study.model_dump(mode="json"), "model": "tiny", "storage": storage.uri, "use_gpu": False}
    refused = train_rank(config, RankContext(0, 1, None, keep, lambda step, numbers: None))
    assert refused is None, refused
    assert storage.exists(manifest_of(instruct_folder(study, study.models[0])))


def attempt(trial: Trial, study: Study, storage: Storage, work: Any) -> None:
    """Runs one trial as a process of the cluster does."""
    config = {"trial": trial.as_dict(), "width": Width(1, 1).as_dict(), "token": "run"}
    process = TrialProcess(config, Setup(study, storage, work, None))
    try:
        process.step()
        assert storage.exists(record_file(trial.trial_id))
    except TrialFailedError:
        assert isinstance(work, FailingWork), trial
    process.stop()


def main() -> None:
    """Forks a process a turn and ends with the first that fails."""
    folder, group, *users = sys.argv[1:]
    for number, user in enumerate(users):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                become(int(user), int(group))
                turn(Path(folder), number)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"turn {number} of user {user} failed")


if __name__ == "__main__":
    main()
