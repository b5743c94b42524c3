"""Every class of failure, caused: what runs again and how, what stays, what is said, and that nothing is left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import faulty_work
import held_job
import pytest
import ray
from builders import make_encoder, make_study
from faulty_work import Blocked, Faulty, LateToArrive
from patience import PATIENCE_S, wait_for
from rich.console import Console

from xlmr_sweep.cluster.tune import attempt_end, deadlines
from xlmr_sweep.cluster.watchdog import NATIVE_MARK
from xlmr_sweep.commands.live_table import LiveTable
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.scheduling.causes import JobFailedError
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.spec import Study

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HOURS_S = 7200.0


def study_of(limits: dict[str, Any], seeds: int = 2, **gpus: float | str) -> Study:
    """A study of models that exist in name only."""
    models = [{"name": name, "hub": f"none/{name}", "gpus": share, "cpus": 0.25} for name, share in gpus.items()]
    fields = {"name": "faults", "models": models, "paradigms": ["prompted"], "sizes": [2], "tasks": ["cb"]}
    return Study.model_validate({**fields, "seeds": list(range(seeds)), "cluster": limits})


def run(
    study: Study, folder: Path, work: Faulty, storage: Any = None, stream: io.StringIO | None = None
) -> tuple[list[Trial], Path, str, LiveTable]:
    """Runs a study's trials; returns them, the storage's folder, what was said (to the stream), and the live table."""
    from xlmr_sweep.cluster.nodes import nodes
    from xlmr_sweep.cluster.tune.sweep import run_trials
    from xlmr_sweep.scheduling.admission import Admission
    from xlmr_sweep.scheduling.resources import trial_width

    storage = storage or Blocked(folder / "runs")
    trials = expand(study)
    stream = stream or io.StringIO()
    live_table = LiveTable(
        Console(file=stream, width=300), trials, lambda: 5, "GPUs", lambda t: storage.path(f"logs/{t.trial_id}.log")
    )
    widths = {model.name: trial_width(model, has_gpus=True) for model in study.models}
    run_trials(study, storage, Admission(trials, widths, nodes(), CostModel(study, {})), live_table, work=work)
    return trials, folder / "runs", stream.getvalue(), live_table


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "records").glob("*.json")}


@contextmanager
def in_thread(work: Callable[[], None]) -> Iterator[None]:
    """Does something beside the block. The block is followed by its error, if it has one."""
    errors: list[BaseException] = []

    def noted() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=noted)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def starts(folder: Path) -> list[list[str]]:
    """Returns trial, process, rank, ranks, process title and time of each start of work."""
    file = folder / "ran.txt"
    return [line.split("|") for line in file.read_text().splitlines()] if file.exists() else []


def scrape() -> str:
    """Returns this project's series from the nodes' own metrics."""

    lines = []
    for node in ray.nodes():
        if node["Alive"]:
            address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with suppress(OSError):  # A slow answer: who waits asks again.
                text = urllib.request.urlopen(address, timeout=PATIENCE_S).read().decode()
                lines += [line for line in text.splitlines() if "xlmr_sweep_" in line]
    return "\n".join(lines)


def test_each_failure_is_answered_by_its_cause(cluster: Any, tmp_path: Path, nothing_is_left: Callable[[], None]) -> None:
    limits = {"trial_stall_s": 8, "max_same_failures": 3, "max_node_failures": 50}
    kinds = {name.replace("-", "_"): name for name in ("die", "hang", "stuck", "nan", "memory", "rank-dies", "rank-memory")}
    gpus: dict[str, float | str] = dict.fromkeys(kinds, "1/4") | {"rank_dies": 2, "rank_memory": 2}
    gpus |= dict.fromkeys(("fine", "fine2", "fine3", "fine4"), "1/4")
    study = study_of(limits, seeds=1, **gpus)
    trials, storage, said, live_table = run(study, tmp_path, Faulty(tmp_path, kinds=kinds))
    kept = records(storage)
    by_model: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        if trial.trial_id in kept:
            by_model.setdefault(trial.model, []).append(kept[trial.trial_id])
    assert set(by_model) == set(gpus) - {"nan"}
    assert {name: len(rows) for name, rows in by_model.items()} == dict.fromkeys(by_model, 1)
    attempts = {name: sorted(row["attempt"] for row in rows) for name, rows in by_model.items()}
    for name in ("die", "hang", "stuck", "rank_dies"):
        assert attempts[name] == [2], name
    assert attempts["fine"] == [1]
    # Out of memory: the next larger share, learned for the model; of a gang twice the ranks.
    assert {row["num_gpus"] for row in by_model["memory"]} == {0.5}
    assert json.loads((storage / "learned" / "memory.json").read_text())["min_width"]["gpus"] == 0.5
    assert {row["num_ranks"] for row in by_model["rank_memory"]} == {4}
    assert {row["num_ranks"] for row in by_model["rank_dies"]} == {2}
    # Divergence: recorded, once.
    failures = [json.loads(path.read_text()) for path in (storage / "failures").glob("*.json")]
    assert {(f["model"], f["error_class"], f["attempt"]) for f in failures} == {("nan", "DivergedError", 1)}
    assert len(failures) == len(live_table.failed) == 1
    for trial in trials:
        if trial.model == "nan":
            log = storage / "logs" / f"{trial.trial_id}.log"
            assert f"Failed {trial.cell}: DivergedError on {failures[0]['host']}: the loss is nan at step 3 (log: {log})" in said
            assert "native words" in log.read_text()
            assert f"printed by {trial.trial_id}" in log.read_text()
            assert "Traceback" in log.read_text()
    classes = {
        "hang": "TrialStalledError",
        "stuck": "TrialStalledError",
        "die": "WorkerDiedError",
        "rank_dies": "WorkerDiedError",
    }
    for kind, text in classes.items():
        (line,) = {line.split(": ")[1].split(" on ")[0] for line in said.splitlines() if line.startswith(f"Again {kind}/")}
        assert line == text
    assert "model memory ran out of memory on 1/4 of a GPU: its trials run on 1/2 of a GPU from now on" in said
    # A process is named after its trial, also the second one that it runs, and each rank.
    started = starts(tmp_path)
    names = {trial.trial_id: trial.cell for trial in trials}
    for trial_id, _, rank, size, title, _ in started:
        wanted = f"ray::trial {names[trial_id]}" + (f" rank {rank} of {size}" if size != "1" else "")
        assert title == wanted
    pids = [pid for _, pid, _, _, _, _ in started]
    assert len(set(pids)) < len(pids), "no process was used twice"
    # Rank 0 of a gang got what it alone reads before any rank began.
    prepared = [line.split("|") for line in (tmp_path / "prepared.txt").read_text().splitlines()]
    assert {(trial_id, rank) for trial_id, rank, _ in prepared} == {(s[0], "0") for s in started if int(s[3]) > 1}
    for trial_id, _, at in prepared[:1]:
        assert float(at) <= min(float(s[5]) for s in started if s[0] == trial_id)
    nothing_is_left()
    # A gauge is told once a scrape, a counter always.
    told: list[str] = []

    def all_told() -> bool:
        told.append(scrape())
        text = "\n".join(told)
        return all(part in text for part in ('end="done"', 'end="diverged"', "xlmr_sweep_score{", 'model="fine"'))

    wait_for(all_told, lambda: told[-1])


def test_a_trial_over_its_time_and_one_whose_process_hears_nothing_are_killed_and_run_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_left: Callable[[], None]
) -> None:
    monkeypatch.setattr(deadlines, "KILL_MARGIN_S", PATIENCE_S)
    stream = io.StringIO()

    def lose_patience() -> None:
        # The slow one ends itself, however slow the machine is. Only then is the stopped one killed, and no second attempt.
        wait_for(lambda: "Again slow" in stream.getvalue())
        monkeypatch.setattr(deadlines, "KILL_MARGIN_S", 0.0)
        wait_for(lambda: "Again stopped" in stream.getvalue())
        monkeypatch.setattr(deadlines, "KILL_MARGIN_S", PATIENCE_S)

    study = study_of({"trial_timeout_s": 8, "storage_patience_s": 1}, seeds=1, slow="1/2", stopped="1/2")
    kinds = {"slow": "slow", "stopped": "stopped"}
    with in_thread(lose_patience):
        trials, storage, said, live_table = run(study, tmp_path, Faulty(tmp_path, kinds=kinds), stream=stream)
    assert live_table.done == len(trials) == 2
    assert {record["attempt"] for record in records(storage).values()} == {2}
    again = {line.split(": ")[0].split("/")[0]: line for line in said.splitlines() if line.startswith("Again ")}
    assert "TrialTimeoutError" in again["Again slow"]
    assert "WorkerDiedError" in again["Again stopped"]
    nothing_is_left()


def test_the_same_traceback_stops_the_model_and_a_full_disk_is_waited_for(
    cluster: Any, tmp_path: Path, nothing_is_left: Callable[[], None]
) -> None:
    study = study_of({"max_same_failures": 2}, seeds=9, broken=1, fine="1/2")
    (tmp_path / "full").touch()
    fine = {trial.trial_id for trial in expand(study) if trial.model == "fine"}
    freed: list[float] = []

    def free() -> None:
        # Two have run and stand before the full disk.
        wait_for(lambda: len({start[0] for start in starts(tmp_path)} & fine) >= 2)
        time.sleep(1)
        freed.append(time.time())
        time.sleep(0.1)  # Times of files run a little behind.
        (tmp_path / "full").unlink()

    with in_thread(free):
        trials, storage, said, live_table = run(study, tmp_path, Faulty(tmp_path, kinds={"broken": "bug"}))
    kept = records(storage)
    assert {trial.model for trial in trials if trial.trial_id in kept} == {"fine"}
    assert len(kept) == live_table.done == 9
    assert {row["attempt"] for row in kept.values()} == {1}, "a trial ran again though only its record could not be written"
    ends = [storage.joinpath("records", f"{trial_id}.json").stat().st_mtime for trial_id in kept]
    assert min(ends) >= freed[0]
    assert "Stopped: model broken, task cb: the same failure 2 times in a row (ValueError at faulty_work.py:" in said
    assert 2 <= len(live_table.failed) < 9
    assert len(live_table.failed) + live_table.num_left_out == 9
    failures = list((storage / "failures").glob("*.json"))
    assert len(failures) == len(live_table.failed)
    nothing_is_left()


def test_a_job_that_fails_while_the_storage_is_full_holds_no_trial_up(cluster: Any, tmp_path: Path) -> None:
    from xlmr_sweep.cluster.nodes import nodes
    from xlmr_sweep.cluster.tune.sweep import run_trials
    from xlmr_sweep.scheduling.admission import Admission, Job
    from xlmr_sweep.scheduling.resources import Width

    study = study_of({"storage_patience_s": 300}, seeds=4, tuned=1).replaced(paradigms=["prompted", "instructed"])
    trials = expand(study)
    live_table = LiveTable(Console(file=io.StringIO(), width=300), trials, lambda: 5, "GPUs", lambda trial: "log")
    (tmp_path / "runs").mkdir()
    blocked = tmp_path / "runs" / "failures"
    blocked.write_text("in the way")
    (tmp_path / "held").touch()

    def run_job(job: Job) -> None:
        raise RuntimeError("no weights today")

    def free() -> None:
        wait_for(lambda: len(live_table.failed) == 4)
        (tmp_path / "held").unlink()
        wait_for(lambda: len(records(tmp_path / "runs")) == 4)
        blocked.unlink()

    admission = Admission(trials, {"tuned": Width(1, 1)}, nodes(), CostModel(study, {}), jobs={"tuned": Width(1, 1)})
    work = Faulty(tmp_path, kinds={"tuned": "held"})
    with in_thread(free):
        run_trials(study, Blocked(tmp_path / "runs").patient(300), admission, live_table, run_job=run_job, work=work)
    failures = [json.loads(path.read_text()) for path in blocked.glob("*.json")]
    assert {(f["paradigm"], f["error_class"], f["attempt"]) for f in failures} == {("instructed", "RuntimeError", 1)}
    assert len(failures) == 4


def test_on_a_storage_that_is_no_path_dead_and_hung_processes_leave_their_logs(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, Any] = {}
    again = LiveTable.again

    def hear(live_table: LiveTable, trial: Trial, row: Any, how: str) -> None:
        heard[trial.model] = row
        again(live_table, trial, row, how)

    host = environment.host()

    def fetch(storage: Storage, trial: Trial, *where: str) -> None:
        # A process that ends itself leaves its log by itself.
        if trial.model != "hang":
            fetch_log(storage, trial, *where)

    monkeypatch.setattr(LiveTable, "again", hear)
    fetch_log = attempt_end.fetch_log
    monkeypatch.setattr(attempt_end, "fetch_log", fetch)
    # The driver's; the trials' processes are asked for theirs in themselves.
    monkeypatch.setattr(environment, "host", lambda: "driver")
    kinds = {name: name for name in ("die", "hang", "stuck")}
    study = study_of({"trial_stall_s": 8}, seeds=1, **dict.fromkeys(kinds, "1/4"))
    storage = Storage(f"local://{tmp_path}/runs")
    assert storage.local is None
    trials, folder, _, live_table = run(study, tmp_path, Faulty(tmp_path, kinds=kinds), storage)
    assert live_table.done == 3
    assert {row["attempt"] for row in records(folder).values()} == {2}
    errors = {"die": "WorkerDiedError", "hang": "TrialStalledError", "stuck": "TrialStalledError"}
    assert {name: row["error_class"] for name, row in heard.items()} == errors
    assert {(row["host"], row["attempt"]) for row in heard.values()} == {(host, 1)}
    assert "oom_kills" in heard["die"]
    last_words = {"die": "native words", "hang": "no step for 8 s", "stuck": NATIVE_MARK}
    for trial in trials:
        log = (folder / "logs" / f"{trial.trial_id}.log").read_text()
        first, _, second = log.partition(" attempt 2: ")
        assert first.count(" attempt 1: ") == 1
        assert last_words[trial.model] in first
        assert all(f"printed by {trial.trial_id}" in part for part in (first, second))
    for trial_id, pid, *_ in starts(tmp_path):
        assert not Path(tempfile.gettempdir(), f"xlmr_sweep-{trial_id}-{pid}.log").exists()


def test_a_node_is_asked_for_so_long_at_most(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    from xlmr_sweep.cluster.nodes import on_node

    node_id = next(node["NodeID"] for node in ray.nodes() if node["Alive"])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "of another")
    assert on_node(node_id, lambda: os.getpid(), timeout_s=PATIENCE_S) not in (None, os.getpid())
    began = time.monotonic()
    assert on_node(node_id, lambda seconds: time.sleep(seconds) or "late", 600.0, timeout_s=0.5) is None
    assert on_node("0" * 56, lambda: 1, timeout_s=PATIENCE_S) is None
    assert time.monotonic() - began < PATIENCE_S


def test_a_storage_that_stays_full_is_a_known_failure(cluster: Any, tmp_path: Path) -> None:
    study = study_of({"storage_patience_s": 1, "max_same_failures": 9}, fine="1/2")
    (tmp_path / "full").touch()
    _, storage, said, live_table = run(study, tmp_path, Faulty(tmp_path))
    assert len(live_table.failed) == 2
    assert "StorageError" in said
    assert "No space left on device; tried for 1 s" in said
    failures = [json.loads(path.read_text()) for path in (storage / "failures").glob("*.json")]
    assert [failure["error_class"] for failure in failures] == ["StorageError"] * 2


def test_a_node_that_dies_costs_its_trial_an_attempt_and_the_rest_nothing(
    cluster: Any, tmp_path: Path, nothing_is_left: Callable[[], None]
) -> None:
    node = cluster.add_node(num_cpus=8, num_gpus=4)
    study = study_of({}, seeds=4, gang=4, single=1)
    gangs = {trial.trial_id for trial in expand(study) if trial.model == "gang"}
    (tmp_path / "held").touch()

    def end_node() -> None:
        # A gang of four is on the only node of four, and waits there.
        wait_for(lambda: len([start for start in starts(tmp_path) if start[0] in gangs]) == 4)
        cluster.remove_node(node, False)
        # The run looks at its nodes once a second, and must not be over by then.
        wait_for(lambda: "is gone" in stream.getvalue())
        (tmp_path / "held").unlink()

    stream = io.StringIO()
    with in_thread(end_node):
        trials, storage, said, live_table = run(study, tmp_path, Faulty(tmp_path, kinds={"gang": "held"}), stream=stream)
    assert live_table.done == len(trials) == 8
    assert "is gone" in said
    attempts = {trial_id: record["attempt"] for trial_id, record in records(storage).items()}
    assert sorted(attempts[trial_id] for trial_id in gangs) == [1, 1, 1, 2]
    assert {attempts[trial_id] for trial_id in set(attempts) - gangs} == {1}
    nothing_is_left()


def test_a_process_that_hangs_in_its_start_is_killed_and_its_trial_runs_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_left: Callable[[], None]
) -> None:
    (tmp_path / "late").touch()
    pids: list[int] = []

    def lose_patience() -> None:
        wait_for((tmp_path / "hanging").exists)
        pids.append(int((tmp_path / "hanging").read_text()))
        monkeypatch.setattr(deadlines, "START_LIMIT_S", 0.5)
        wait_for(lambda: "did not start within" in stream.getvalue())
        monkeypatch.setattr(deadlines, "START_LIMIT_S", 600.0)

    stream = io.StringIO()
    study = study_of({"max_worker_retries": 9}, seeds=1, single=1)
    with in_thread(lose_patience):
        trials, storage, _, live_table = run(study, tmp_path, LateToArrive(tmp_path), stream=stream)
    assert live_table.done == len(trials) == len(records(storage)) == 1
    wait_for(lambda: not Path(f"/proc/{pids[0]}").exists())
    nothing_is_left()


def test_a_driver_that_is_interrupted_or_killed_leaves_nothing_and_the_next_takes_over(
    cluster: Any, tmp_path: Path, nothing_is_left: Callable[[], None]
) -> None:
    """Also: while it runs, a second one is refused with its name."""
    make_encoder(tmp_path / "encoder")
    models = [{"name": "gang", "folder": str(tmp_path / "encoder"), "gpus": 2, "cpus": 0.5}]
    changes = {"models": models, "paradigms": ["prompted"], "tasks": ["cb"], "sizes": [2], "cluster": {"gpus": 5}}
    study = make_study(tmp_path, tmp_path / "encoder", **changes)
    storage = tmp_path / "runs"

    def start(seconds: float) -> subprocess.Popen[str]:
        if seconds:
            (tmp_path / "ran.txt").unlink(missing_ok=True)
        driver = Path(faulty_work.__file__).with_name("faulty_driver.py")
        command = [sys.executable, str(driver), str(study), str(storage), cluster.address, str(tmp_path), str(seconds)]
        environment = {**os.environ, "PYTHONPATH": f"{driver.parent}:{os.environ.get('PYTHONPATH', '')}"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for_ranks(driver: subprocess.Popen[str]) -> None:
        wait_for(lambda: driver.poll() is not None or len(starts(tmp_path)) >= 2)
        assert driver.poll() is None, driver.communicate()[0]

    # Trials far longer than the test, which ends their drivers: however slow the machine is, none is through before.
    driver = start(HOURS_S)
    wait_for_ranks(driver)
    second = start(0)
    assert f"process {driver.pid} on " in second.communicate(timeout=PATIENCE_S)[0]
    assert second.returncode == 2
    driver.kill()
    assert driver.wait(PATIENCE_S) == -signal.SIGKILL
    nothing_is_left()
    assert len(list((storage / "driver").iterdir())) == 1, "the killed driver's claim"
    third = start(HOURS_S)
    wait_for_ranks(third)
    third.send_signal(signal.SIGINT)
    assert third.wait(PATIENCE_S) == 130
    assert not list((storage / "driver").iterdir())
    nothing_is_left()


def test_an_instruction_job_whose_controller_dies_leaves_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Any, nothing_is_left: Callable[[], None]
) -> None:
    """The job's driver, this process, lives on. `test_s3.py` kills a driver on a cluster that stays."""
    from xlmr_sweep.cluster import instruct_job

    make_encoder(tmp_path / "encoder", words=["User", ":", "Assistant", "is", "it", "?", "yes", "no"])
    (tmp_path / "rows.jsonl").write_text('{"inputs": "is it ?", "targets": "yes"}\n' * 64)
    fields: dict[str, Any] = {"name": "s", "sizes": [8], "seeds": [0], "models": [{"name": "m", "folder": tmp_path / "encoder"}]}
    fields["instructions"] = {"source": "folder", "folder": tmp_path / "rows.jsonl"}
    study = Study.model_validate(fields | {"instruct": {"max_steps": 4, "global_batch_size": 8, "max_length": 64}})
    storage = Storage(tmp_path / "runs")
    prepare_mixture(study, storage)
    (tmp_path / "hold-2").touch()
    monkeypatch.setattr(instruct_job, "instruction_rank", held_job.held_work(tmp_path))

    def kill_controller() -> None:
        wait_for((tmp_path / "waits").exists)
        (controller,) = faults.processes_titled(cluster, "ray::TrainController")
        os.kill(controller, signal.SIGKILL)

    with in_thread(kill_controller), pytest.raises(JobFailedError, match="^WorkerDiedError: .*class_name: TrainController"):
        instruct_job.run_instruct(study, "m", storage, num_ranks=1, use_gpu=False)
    nothing_is_left()
