"""Wrong input: one clear line, exit status 2, nothing started, nothing lost."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builders import WORDS, make_encoder
from rich.console import Console

from xlmr_sweep.cluster.connect import connected, probe
from xlmr_sweep.commands import entry
from xlmr_sweep.commands.entry import Request
from xlmr_sweep.commands.preparation import check_models
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node, Width, check_fits, num_fitting, trial_width
from xlmr_sweep.storage.collect import collect, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure, write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.tasks import TASKS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object) -> None:
        raise AssertionError("Ray would have been started")

    monkeypatch.setattr("xlmr_sweep.commands.run.connected", started)


def files(folder: Path) -> list[str]:
    """Returns the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def complaint(path: Path, storage: Path, **request: Any) -> str:
    """Returns the one line that a run of this study ends with."""
    with pytest.raises(StudyError) as error:
        entry.run(Request(str(path), str(storage), **request), "local", Console(quiet=True))
    text = str(error.value)
    assert "\n" not in text
    folders = [*storage.rglob("*"), storage] if storage.is_dir() else []
    assert not [f for f in folders if f.is_dir() and not any(f.iterdir())], "an empty folder of a refused command"
    return text


def test_unknown_names_are_said_with_the_known_ones(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    assert "--models: 'huge' is not in the study; it has tiny" in complaint(path, storage, models=("huge",))
    assert "--tasks: 'rte' is not in the study; it has cb, copa" in complaint(path, storage, tasks=("rte",))
    assert "--paradigms: 'zero' is not in the study" in complaint(path, storage, paradigms=("zero",))
    assert "sizes: 0 is not a training size" in complaint(path, storage, sizes=(0,))
    assert "sizes: 256 is above max_train_size 128" in complaint(path, storage, sizes=(256,))
    assert not storage.exists()


def test_a_size_above_the_training_set_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    assert "sizes: 25 is above the 24 training examples" in complaint(study_file(), tmp_path / "runs", sizes=(25,))
    assert not files(tmp_path / "runs"), "a refused command must leave nothing, above all not the size"


def test_a_dry_run_refuses_examples_that_a_run_would_refuse(study_file: Callable[..., Path], tmp_path: Path) -> None:
    request = Request(str(study_file()), str(tmp_path / "runs"))
    assert entry.dry_run(request, Console(quiet=True)) == 0
    with pytest.raises(StudyError, match="sizes: 25 is above the 24 training examples of task cb"):
        entry.dry_run(replace(request, sizes=(25,)), Console(quiet=True))
    (tmp_path / "superglue" / "COPA" / "val.jsonl").write_text("{oops\n")
    with pytest.raises(StudyError, match=r"COPA/val\.jsonl: line 1: not JSON"):
        entry.dry_run(request, Console(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_a_size_above_a_hub_training_set_needs_no_network(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file(data={"source": "hub"}, max_train_size=500, sizes=[300])
    assert "sizes: 300 is above the 250 training examples of task cb" in complaint(path, tmp_path / "runs")


def test_a_dry_run_reads_a_tokenizer_that_pads_and_cuts(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """As those of sentence encoders do by their own files."""
    from tokenizers import Tokenizer

    path = study_file()
    file = Path(load_study(str(path)).models[0].folder or "") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(file))
    assert entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(quiet=True)) == 0


def cb_whose_third_word_is(word: str) -> dict[str, Any]:
    return {
        "name": "cb",
        "labels": ["entailment", "contradiction", "neutral"],
        "label_words": ["yes", "no", word],
        "prompt": "{premise} {hypothesis}",
        "baseline": ["{premise}", "{hypothesis}"],
        "long_field": "premise",
        "folder": "CB",
    }


def test_a_label_word_of_two_tokens_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    said = complaint(study_file(tasks=[cb_whose_third_word_is("not sure")]), tmp_path / "runs")
    assert "model tiny: task cb: label word 'not sure' is" in said


def test_a_family_without_a_fast_path_is_said_once(study_file: Callable[..., Path], tmp_path: Path) -> None:
    models = [{"name": family, "folder": str(make_encoder(tmp_path / family, family))} for family in ("electra", "bert")]
    study = load_study(str(study_file(models=models)))
    said = StringIO()
    check_models(study, Storage(tmp_path / "runs"), expand(study), Console(file=said, width=300))
    assert said.getvalue().count("Warning: model electra: no fast path for electra") == 1
    assert "bert:" not in said.getvalue()


def test_a_tokenizer_whose_settings_name_no_token_is_checked_all_the_same(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Copies of hub models often name none: transformers knows them by the tokenizer's class."""
    path = study_file()
    for settings in tmp_path.rglob("tokenizer_config.json"):
        settings.write_text('{"model_max_length": 512}')
    said = StringIO()
    request = Request(str(path), str(tmp_path / "runs"))
    assert entry.dry_run(request, Console(file=said, width=200)) == 0
    assert "Label words not checked" not in said.getvalue()
    path = study_file(tasks=[cb_whose_third_word_is("qqqq")])
    for settings in tmp_path.rglob("tokenizer_config.json"):
        settings.write_text('{"model_max_length": 512}')
    with pytest.raises(StudyError, match="model tiny: task cb: label word 'qqqq' is"):
        entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(quiet=True))


def test_bad_data_are_named_by_file_and_line(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file()
    file = tmp_path / "superglue" / "COPA" / "val.jsonl"
    whole = file.read_text()
    file.write_text(whole + "{oops\n")
    assert "COPA/val.jsonl: line 10: not JSON" in complaint(path, tmp_path / "runs")
    file.write_text("")
    assert "COPA/val.jsonl: holds no example" in complaint(path, tmp_path / "runs")
    file.write_text(whole.replace("choice2", "choice3"))
    assert "line 1: lacks the field 'choice2' of task copa" in complaint(path, tmp_path / "runs")
    file.unlink()
    assert "val.jsonl cannot be read: No such file" in complaint(path, tmp_path / "runs")


def test_bad_instructions_are_named_by_file_and_line(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file()
    file = tmp_path / "instructions.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"inputs": "a"}\n')
    assert "instructions.jsonl: line 61:" in complaint(path, tmp_path / "runs")
    file.write_text("")
    assert "instructions.jsonl: is empty" in complaint(path, tmp_path / "runs")
    assert not files(tmp_path / "runs")


def test_a_model_that_does_not_serve_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    headless = make_encoder(tmp_path / "headless", "bert", head=False)
    path = study_file(models=[{"name": "h", "folder": str(headless)}])
    assert "has no masked-LM head; set new_head: true" in complaint(path, tmp_path / "runs")
    path = study_file(models=[{"name": "h", "folder": str(tmp_path / "gone")}])
    assert "model h: folder:" in complaint(path, tmp_path / "runs")
    path = study_file(models=[{"name": "h", "demo": "giant"}])
    assert "no demo model 'giant'" in complaint(path, tmp_path / "runs")
    demo = {"models": [{"name": "d", "demo": "tiny"}], "data": {"source": "demo"}, "instructions": {"source": "demo"}}
    words = TASKS["cb"].model_dump() | {"label_words": ["yes", "no", "not sure at all"]}
    assert "label word 'not sure at all' is" in complaint(study_file(**demo, tasks=[words]), tmp_path / "runs")
    assert not files(tmp_path / "runs"), "examples are kept only once the models were looked at"
    long = {"finetune": {"max_length": 256}}
    assert "model d: max_length 256 is above the 128 positions" in complaint(study_file(**demo, **long), tmp_path / "runs")


def test_instructed_weights_of_another_model_are_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    tuned = {"same": base, "words": make_encoder(tmp_path / "words", words=[*WORDS, "zebra"])}
    tuned["kind"] = make_encoder(tmp_path / "kind", "bert")
    said = {"words": "vocab_size is", "kind": "model_type is bert there"}
    for name, folder in tuned.items():
        path = study_file(models=[{"name": "m", "folder": str(base), "instructed_folder": str(folder)}])
        if name in said:
            assert f"model m: instructed_folder: {said[name]}" in complaint(path, tmp_path / "runs")
        else:
            with pytest.raises(AssertionError, match="Ray would have been started"):
                entry.run(Request(str(path), str(tmp_path / "runs")), "local", Console(quiet=True))


def test_a_storage_of_another_study_or_one_that_cannot_be_written(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    storage.mkdir()
    (storage / "study.json").write_text(json.dumps({"name": "other"}))
    assert "study.json: not a study" in complaint(path, storage)
    (tmp_path / "file").write_text("")
    assert "file/x: study.json cannot be read" in complaint(path, tmp_path / "file" / "x")


def test_a_refused_command_leaves_the_storage_as_it_was(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    assert "nobody answers" in _refused_address(path, storage)
    assert not (storage / "results.parquet").exists()
    assert not (storage / "study.json").exists()
    study = load_study(str(path))
    home = Storage(storage)
    trial = expand(study)[0]
    write_record(home, {**trial.as_dict(), "score": 0.5, "spec": {}, "resolved": {}})
    home.write("records/broken.json", b"{")
    write_study(home, study)
    write_results(home, collect(home, study))
    before = {name: (storage / name).read_bytes() for name in ("results.parquet", "study.json", "records/broken.json")}
    changed = study_file(finetune={"steps": 5})
    assert "nobody answers" in _refused_address(changed, storage)
    assert {name: (storage / name).read_bytes() for name in before} == before


def _refused_address(path: Path, storage: Path) -> str:
    with pytest.raises(StudyError) as error:
        entry.run(Request(str(path), str(storage)), "127.0.0.1:1", Console(quiet=True))
    return str(error.value)


def test_status_of_a_storage_whose_folders_are_gone_counts_its_records(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = study_file(), Storage(tmp_path / "runs")
    study = load_study(str(path))
    settings = study.model_dump(mode="json", include={"finetune", "instruct", "data"})
    spec = {**settings, "model_spec": study.models[0].model_dump(mode="json")}
    trials = expand(study)
    for trial in trials[:5]:
        write_record(home, {**trial.as_dict(), "score": 0.5, "spec": spec, "resolved": {}})
    write_failure(home, trials[7], {"error_class": "X", "message": "m", "host": "h", "attempt": 1, "time": "2026-01-01"})
    request = Request(str(path), str(home))
    (tmp_path / "encoder").rename(tmp_path / "gone")
    with pytest.raises(StudyError, match=r"encoder does not exist"):
        entry.status(request, Console())
    # Kept weights are no part of what a trial is.
    write_study(home, study.replaced(finetune=study.finetune.model_copy(update={"save_weights": True})))
    assert entry.status(request, Console(width=200)) == 0
    assert "5 of 24 trials done" in capsys.readouterr().out
    write_study(home, study)
    assert entry.status(request, Console(width=200)) == 0
    said = capsys.readouterr().out
    assert "5 of 24 trials done, 1 failed, 18 missing" in said
    assert "encoder does not exist; records are matched by their declared settings" in said
    (tmp_path / "superglue").rename(tmp_path / "gone-too")
    assert entry.status(replace(request, sizes=(4, 16), seeds=(0,)), Console(width=200)) == 0
    assert "5 of 36 trials done, 1 failed, 30 missing" in capsys.readouterr().out
    with pytest.raises(StudyError, match="--models: 'x' is not in the study; it has tiny"):
        entry.status(replace(request, models=("x",)), Console())


def test_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def command(console: Console) -> int:
        console.print("127.0.0.1:1:2", markup=False)
        raise StudyError("--address 127.0.0.1:-1: [bold]not[/bold] of the form")

    assert entry.main(command) == 2
    told = capsys.readouterr()
    assert told.err == "Error: --address 127.0.0.1:-1: [bold]not[/bold] of the form\n"
    assert told.out == "127.0.0.1:1:2\n"


def test_nothing_of_an_earlier_run_is_lost_by_bad_input(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    (storage / "records").mkdir(parents=True)
    (storage / "records" / "0123.json").write_text('{"trial_id": "0123"}')
    complaint(path, storage, tasks=("rte",))
    assert (storage / "records" / "0123.json").is_file()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--study", "nope"], 2, "no such study"),
        (["--sizes", "8,x"], 2, "Error: --sizes: '8,x' is not a list of whole numbers"),
        (["--models", ","], 2, "Error: --models: ',' names nothing"),
        (["--storage", ""], 2, "Error: --storage '': not a path or URI"),
        (["--no-such-option"], 2, "No such option"),
        (["--dry-run"], 0, "1260 trials: 0 done, 1260 to run"),
        (["--help"], 0, "--retry-failed"),
    ],
)
def test_exit_statuses_of_the_command(options: list[str], status: int, said: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "experiments/run_grid.py", "--storage", str(tmp_path / "runs"), *options]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"})
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_while_it_starts_ends_with_130(number: signal.Signals) -> None:
    code = "import os; from xlmr_sweep import interrupt; interrupt.install(); os.kill(os.getpid(), int({})); import ray"
    done = subprocess.run([sys.executable, "-c", code.format(number.value)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
    for name in ("run_grid", "run_instruct", "prepare_data", "demo"):
        script = (ROOT / "experiments" / f"{name}.py").read_text()
        assert script.index("interrupt.install()") < script.index("import typer"), name


def test_nobody_at_an_address_is_said_within_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(StudyError, match=f"--address 127.0.0.1:{port}: nobody answers .*refused"):
            probe(f"127.0.0.1:{port}")
    with pytest.raises(StudyError, match="nobody answers"):
        probe("a..b:80")
    with pytest.raises(StudyError, match="--address ray://head:10001: .* not Ray Client; give HOST:PORT of the head"):
        probe("ray://head:10001")
    for address in ("somewhere", "host:port", ""):
        with pytest.raises(StudyError, match="not of the form auto, local or HOST:PORT"):
            probe(address)


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(
        StudyError, match="^--address local: Ray did not start on this machine: .* startup. Try again when"
    ) as said:
        connected("local", 2, 0).__enter__()
    assert "More" not in str(said.value)


def test_something_that_is_no_ray_head_is_said_before_data_are_read(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    path = study_file()
    (tmp_path / "superglue" / "CB" / "train.jsonl").write_text("{oops\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=_hang_up, args=(other,), daemon=True).start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(StudyError, match=f"--address {address}: no Ray head answers at {address}"):
            entry.run(Request(str(path), str(tmp_path / "runs")), address, Console(quiet=True))
        other.shutdown(socket.SHUT_RDWR)
    assert not files(tmp_path / "runs")


def _hang_up(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_a_cluster_that_is_too_small_is_refused_with_what_is_missing() -> None:
    paper = load_study("paper")
    names = [model.name for model in paper.models]
    check_fits(paper, names, [Node(cpus=64, gpus=8)], instruct=names)
    with pytest.raises(StudyError, match=r"model xlmr-xxl: a fine-tuning trial needs 8 x \(1 CPUs and 1 GPUs\)"):
        check_fits(paper, names, [Node(cpus=64, gpus=4)])
    with pytest.raises(StudyError, match="expects 8 GPUs and the cluster has none"):
        check_fits(paper, names, [Node(cpus=64, gpus=0)])
    with pytest.raises(StudyError, match=r"model xlmr-xl: instruction tuning needs 8 x"):
        check_fits(paper, ["xlmr-base"], [Node(cpus=64, gpus=2)], instruct=["xlmr-xl"])
    with pytest.raises(StudyError, match="the cluster has 0.5 CPUs and 8 GPUs on 1 nodes"):
        check_fits(paper, ["xlmr-base"], [Node(cpus=0.5, gpus=8)])


def test_widths_follow_the_declared_share() -> None:
    paper = load_study("paper")
    widths = {model.name: trial_width(model, has_gpus=True) for model in paper.models}
    assert widths["xlmr-base"] == Width(1, 0.25, 1)
    assert widths["xlmr-xxl"].bundles() == [{"CPU": 1, "GPU": 1}] * 8
    assert num_fitting(widths["xlmr-base"], [Node(64, 8)]) == 32
    assert num_fitting(widths["xlmr-base"], [Node(8, 8)]) == 8
    assert trial_width(paper.models[3], has_gpus=False) == Width(1, 0, 1)


def test_a_node_that_cannot_write_or_does_not_see_the_storage_says_so(tmp_path: Path) -> None:
    from xlmr_sweep.cluster.storage_check import _check_node

    check = _check_node._function
    (tmp_path / "file").write_text("")
    assert "cannot be written on" in check(str(tmp_path / "file" / "x"), "tmp/seen")
    assert "does not hold what the driver wrote; use a folder or URI that all nodes share" in check(str(tmp_path), "tmp/seen")
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "tmp" / "seen").write_text("driver")
    assert check(str(tmp_path), "tmp/seen") == ""
