"""`run_grid.py` as a user meets it: a whole small study, the same command again, more seeds, faults, signals, kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import make_encoder, make_study, one_at_a_time
from patience import wait_for

from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

GRID = "experiments/run_grid.py"
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def scores(storage: Path) -> dict[str, float]:
    table = pd.read_parquet(storage / "results.parquet")
    return dict(zip(table["trial_id"], table["score"], strict=True))


KEYS = {
    "RAY_AUTH_TOKEN": "1a51" * 16,
    "HF_TOKEN": "hf_markedForThisTest",
    "AWS_ACCESS_KEY_ID": "AKIAMARKED",
    "AWS_SECRET_ACCESS_KEY": "markedSecretOfACloud",
    "WANDB_API_KEY": "markedKeyOfATracker",
}
"""Marked values of what must never be seen."""


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """A short folder, for the sake of Ray's sockets, in which Ray keeps its logs."""
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any], ray_folder: Path) -> tuple[Path, Path, str]:
    """A whole study, run once: study file, storage, output."""
    folder = tmp_path_factory.mktemp("whole")
    study = make_study(folder, make_encoder(folder / "encoder"))
    storage = folder / "runs"
    left, look = _look(start, study, storage), _look(start, study, storage)
    left.send(signal.SIGINT)
    assert left.end() == 130
    assert "Interrupted" not in left.output
    command = start(GRID, "--study", str(study), "--storage", str(storage), **KEYS, RAY_TMPDIR=str(ray_folder))
    command.wait_for(lambda: (storage / "records").is_dir())
    # While its processes are there.
    assert [command.processes(key.encode()) for key in KEYS.values()] == [[]] * len(KEYS)
    assert command.end() == 0, command.output
    command.wait_until_gone()
    # What was looked at from the beginning ends with the study.
    assert look.end() == 0
    assert look.output.splitlines()[-1] == "24 of 24 trials have a record"
    return study, storage, command.output


def _look(start: Callable[..., Any], study: Path, storage: Path) -> Any:
    """Returns a command that watches the study's driver, before there is one."""
    look = start(GRID, "--study", str(study), "--storage", str(storage), "--status", "--watch")
    look.wait_for(lambda: "0 of 24 trials have a record; nobody runs this study now" in look.output)
    return look


NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
"""With what commands join the Ray that runs for all of them."""


def test_no_key_is_in_what_a_run_prints_keeps_or_logs(finished: tuple[Path, Path, str], ray_folder: Path) -> None:
    _, storage, output = finished
    files = [path for folder in (storage, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert any("raylet" in path.name for path in files), "Ray's own logs are looked at too"
    for key in KEYS.values():
        assert key not in output
        assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_every_trial_has_a_record_predictions_and_a_log(finished: tuple[Path, Path, str]) -> None:
    _, storage, output = finished
    table = pd.read_parquet(storage / "results.parquet")
    assert len(table) == 24
    assert table["score"].between(0, 1).all()
    assert set(table["paradigm"]) == {"baseline", "prompted", "instructed"}
    for trial_id, score in scores(storage).items():
        record = json.loads((storage / "records" / f"{trial_id}.json").read_text())
        assert record["score"] == score
        assert record["spec"]["finetune"]["steps"] == 4
        assert record["spec"]["task_spec"]["name"] == record["task"]
        assert record["spec"]["template_version"] == 2
        assert record["resolved"]["data"]
        predictions = pd.read_parquet(storage / "predictions" / f"{trial_id}.parquet")
        assert {"example_id", "label", "prediction", "score_0", "score_1"} <= set(predictions.columns)
        assert len(predictions) == 9
        accuracy = (predictions["label"] == predictions["prediction"]).mean()
        assert accuracy == pytest.approx(record["accuracy"])
        log = (storage / "logs" / f"{trial_id}.log").read_text()
        assert "score" in log
    instructed = [json.loads(p.read_text()) for p in (storage / "records").glob("*.json")]
    manifest = json.loads(next((storage / "instruct").glob("tiny-*/manifest.json")).read_text())
    weights = {r["resolved"]["weights"] for r in instructed if r["paradigm"] == "instructed"}
    assert weights == {manifest["weights"]}
    assert "24 of 24 trials have a record" in output


def test_tunes_own_folder_holds_the_same_table(finished: tuple[Path, Path, str]) -> None:
    from analysis.tables import load
    from xlmr_sweep.storage.records import COLUMNS

    _, storage, _ = finished
    ours = load(str(storage)).rows
    tunes = load(str(storage / "tune")).rows
    columns = sorted(set(ours.columns) & set(COLUMNS))
    assert len(columns) > 30
    left, right = (rows[columns].sort_values("trial_id").reset_index(drop=True) for rows in (ours, tunes))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)


def test_the_same_command_again_starts_nothing(finished: tuple[Path, Path, str], run: Callable[..., tuple[int, str]]) -> None:
    study, storage, _ = finished
    before = {p.name: p.stat().st_mtime_ns for p in (storage / "records").iterdir()}
    runs = sorted(p.name for p in (storage / "tune").iterdir())
    status, output = run(GRID, "--study", str(study), "--storage", str(storage), PYTHONPROFILEIMPORTTIME="1")
    assert status == 0, output
    assert "24 trials, 0 to run" in output
    assert "Ray dashboard" not in output
    # What takes seconds to import is not.
    assert re.search(r"\| +pydantic$", output, re.MULTILINE)
    assert not re.search(r"\| +(ray|torch|transformers)$", output, re.MULTILINE)
    assert {p.name: p.stat().st_mtime_ns for p in (storage / "records").iterdir()} == before
    assert sorted(p.name for p in (storage / "tune").iterdir()) == runs


def test_status_and_dry_run_start_nothing_and_count(
    finished: tuple[Path, Path, str], run: Callable[..., tuple[int, str]]
) -> None:
    study, storage, _ = finished
    status, output = run(GRID, "--study", str(study), "--storage", str(storage), "--status")
    assert status == 0
    assert "24 of 24 trials done, 0 failed, 0 missing" in output
    status, output = run(
        GRID, "--study", str(study), "--storage", f"file://{storage}", "--dry-run", "--seeds", "0,5", "--tasks", "cb"
    )
    assert status == 0
    assert "12 trials: 6 done, 6 to run" in output
    assert "5" not in json.loads((storage / "study.json").read_text())["seeds"]


def test_a_new_seed_a_corrupt_record_and_a_lost_one_run_and_nothing_else(
    finished: tuple[Path, Path, str], tmp_path: Path, run: Callable[..., tuple[int, str]], running_ray: list[str]
) -> None:
    study, whole, _ = finished
    study = one_at_a_time(study, tmp_path)
    storage = Path(shutil.copytree(whole, tmp_path / "runs"))
    before = scores(storage)
    copa = pd.read_parquet(storage / "results.parquet").query("task == 'copa' and train_size == 4 and paradigm == 'prompted'")
    lost, corrupt = copa["trial_id"].tolist()
    times = {p.name: p.stat().st_mtime_ns for p in (storage / "records").glob("*.json")}
    (storage / "records" / f"{lost}.json").unlink()
    (storage / "records" / f"{corrupt}.json").write_text('{"trial_id":')
    options = ["--tasks", "copa", "--sizes", "4", "--seeds", "0,1,2", "--paradigms", "prompted"]
    arguments = ["--study", str(study), "--storage", f"file://{storage}", *options, *running_ray]
    status, output = run(GRID, *arguments, **NO_TOKEN)
    assert status == 0, output
    assert f"Set aside records/corrupt/{corrupt}.json" in output
    assert "3 trials, 3 to run" in output
    after = scores(storage)
    assert {key: after[key] for key in before} == before
    assert len(after) == 25
    now = {p.name: p.stat().st_mtime_ns for p in (storage / "records").glob("*.json")}
    assert {name for name in times if now[name] != times[name]} == {f"{lost}.json", f"{corrupt}.json"}
    assert json.loads((storage / "study.json").read_text())["seeds"] == [0, 1, 2]
    status, output = run(GRID, "--study", str(study), "--storage", str(storage), "--status")
    assert "25 of 36 trials done, 0 failed, 11 missing" in output


def test_a_failed_trial_is_recorded_and_costs_no_other_trial(
    tmp_path: Path, run: Callable[..., tuple[int, str]], running_ray: list[str]
) -> None:
    bad = {"steps": 4, "batch_size": 4, "learning_rate": 1e30, "warmup": 0.0, "max_length": 64}
    study = one_at_a_time(make_study(tmp_path, make_encoder(tmp_path / "encoder"), finetune=bad), tmp_path)
    storage = tmp_path / "runs"
    cells = ["--paradigms", "prompted", "--sizes", "4", "--seeds", "0"]
    arguments = [GRID, "--study", str(study), "--storage", str(storage), *cells, *running_ray]
    status, output = run(*arguments, **NO_TOKEN)
    assert status == 1, output
    assert "Failed tiny/prompted/cb/n=4/seed=0: DivergedError" in output
    failures = [json.loads(path.read_text()) for path in (storage / "failures").glob("*.json")]
    assert {(f["task"], f["error_class"], f["attempt"]) for f in failures} == {
        ("cb", "DivergedError", 1),
        ("copa", "DivergedError", 1),
    }
    assert all("the loss is" in f["message"] and "Traceback" in f["traceback"] and f["host"] for f in failures)
    assert len(pd.read_parquet(storage / "results.parquet")) == 0
    status, output = run(*arguments, "--no-retry-failed", **NO_TOKEN)
    assert status == 1
    assert "2 trials, 0 to run" in output


def test_a_network_interface_that_is_not_there_is_one_line_and_the_recorded_cause(
    tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    study = make_study(tmp_path, encoder, models=[{"name": "tiny", "folder": str(encoder)}])
    cells = ["--paradigms", "instructed", "--tasks", "cb", "--sizes", "4", "--seeds", "0"]
    arguments = ["--study", str(study), "--storage", str(tmp_path / "runs"), *cells]
    status, output = run(GRID, *arguments, GLOO_SOCKET_IFNAME="ib0")
    assert status == 1
    assert "Traceback" not in output
    assert 'File "' not in output
    (line,) = (line for line in output.splitlines() if "Instruction tuning of tiny failed" in line)
    assert "Unable to find address for: ib0; set GLOO_SOCKET_IFNAME (it is ib0) to a network interface" in line
    (failure,) = (json.loads(path.read_text()) for path in (tmp_path / "runs" / "failures").glob("*.json"))
    assert failure["error_class"] == "RuntimeError"
    assert "Unable to find address for: ib0" in failure["message"]
    (log,) = (tmp_path / "runs" / "logs").glob("instruct-*.log")
    assert "Traceback" in log.read_text()


def kill_head(command: Any) -> None:
    """Kills the head of a command's Ray."""
    (head,) = command.processes(b"gcs_server")
    os.kill(head, signal.SIGKILL)


def says_that_its_head_is_gone(output: str) -> bool:
    """Tells whether the one line of the error says so."""
    (line,) = (line for line in output.splitlines() if "Error" in line)
    said = r"Error: the head of Ray at \S+ \(gcs_server\) is gone\. What is done is kept; the same command goes on\."
    return "Traceback" not in output and re.fullmatch(said, line) is not None


def prepare_step_by_step(run: Callable[..., tuple[int, str]], arguments: list[str], joined: list[str], storage: Path) -> Path:
    """Prepares the data, then tunes on instructions, each by its own command; returns the tuned weights' manifest."""
    status, output = run("experiments/prepare_data.py", *arguments)
    assert status == 0, output
    found_data = [json.loads(path.read_text()) for path in storage.glob("data/*/manifest.json")]
    (mixture,) = (manifest for manifest in found_data if "length_histogram" in manifest)
    assert mixture["fingerprint"]
    assert not (storage / "instruct").exists()
    status, output = run("experiments/run_instruct.py", *joined, **NO_TOKEN)
    assert status == 0, output
    (weights,) = (storage / "instruct").glob("tiny-*")
    assert {path.name for path in weights.iterdir()} >= {"manifest.json", "model.safetensors", "config.json", "tokenizer.json"}
    assert not (storage / "records").exists()
    return weights / "manifest.json"


def kill_within_a_trial(command: Any, storage: Path, study: Path) -> str:
    """Kills a trial's process after its attempt began and before it has a record; returns the trial's id.

    The process is stopped first, so that it stays where it is while it is looked at.
    """
    ids = {trial.cell: trial.trial_id for trial in expand(load_study(str(study)))}

    def killed() -> str:
        for pid in command.processes(b"ray::trial "):
            os.kill(pid, signal.SIGSTOP)
            process = Path(f"/proc/{pid}")
            wait_for(lambda at=process: ") T " in (at / "stat").read_text())
            cell = (process / "cmdline").read_bytes().split(b"\0")[0].decode().strip().removeprefix("ray::trial ")
            trial_id = ids.get(cell, "")
            log, record = storage / f"logs/{trial_id}.log", storage / f"records/{trial_id}.json"
            within = log.exists() and f", process {pid}, " in log.read_text() and not record.exists()
            os.kill(pid, signal.SIGKILL if within else signal.SIGCONT)
            if within:
                return trial_id
        return ""

    found: list[str] = []
    command.wait_for(lambda: bool(found) or bool((trial_id := killed()) and not found.append(trial_id)))
    return found[0]


@pytest.mark.timeout(1800)  # Seven commands.
def test_step_by_step_on_a_storage_that_is_no_path_and_a_run_that_is_ended_three_times_and_loses_a_worker(
    finished: tuple[Path, Path, str],
    tmp_path: Path,
    start: Callable[..., Any],
    run: Callable[..., tuple[int, str]],
    running_ray: list[str],
) -> None:
    study, undisturbed, _ = finished
    storage = tmp_path / "runs"
    # fsspec's name for the local disk: everything goes the way of an object store, and the test can look.
    arguments = ["--study", str(one_at_a_time(study, tmp_path)), "--storage", f"local://{storage}"]
    joined = [*arguments, *running_ray]
    weights = prepare_step_by_step(run, arguments, joined, storage)
    made = weights.stat().st_mtime_ns

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (storage / "records").glob("*.json")}

    def after_two_more(number: int, arguments: list[str]) -> Any:
        command = start(GRID, *arguments, **(NO_TOKEN if arguments is joined else {}))
        command.wait_for(lambda: len(times()) >= number + 2)
        return command

    # One run that is ended three times, each time after two more trials, and goes on with the same command: on a Ray that runs
    # for several commands, and on its own, of which nothing may be left.
    endings: list[tuple[Callable[[Any], None], int, list[str]]] = [
        (lambda command: command.send(signal.SIGTERM), 130, joined),
        (lambda command: command.send(signal.SIGKILL), -9, arguments),
        (kill_head, 1, arguments),
    ]
    kept: dict[str, int] = {}
    for end, status, options in endings:
        command = after_two_more(len(kept), options)
        end(command)
        assert command.end() == status, command.output
        command.wait_until_gone()
        assert f"24 trials, {24 - len(kept)} to run" in command.output
        assert (end is kill_head) == ("(gcs_server) is gone" in command.output)
        now = times()
        if status == 130:
            assert f"{len(now)} of 24 trials have a record" in command.output
            assert "about" in command.output[command.output.rindex("waiting") :], "the final table"
        assert {name: now[name] for name in kept} == kept
        kept = now
    assert says_that_its_head_is_gone(command.output), command.output
    assert 6 <= len(kept) < 24
    command = start(GRID, *arguments)
    hit = kill_within_a_trial(command, storage, study)
    assert command.end() == 0, command.output
    assert f"24 trials, {24 - len(kept)} to run" in command.output
    now = times()
    assert {name: now[name] for name in kept} == kept
    attempts = {path.stem: json.loads(path.read_text())["attempt"] for path in (storage / "records").glob("*.json")}
    # At most one attempt for each process that died with the trial.
    assert attempts[hit] >= 2
    assert max(attempts.values()) <= 4
    for trial_id, attempt in attempts.items():
        told = re.findall(r" attempt (\d+): ", (storage / "logs" / f"{trial_id}.log").read_text())
        assert [int(number) for number in told] == list(range(1, attempt + 1))
    assert scores(storage) == scores(undisturbed)
    assert weights.stat().st_mtime_ns == made, "instruction-tuned again"
