"""`--check` without a cluster: each line says ok or what to do, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from complaints import files
from rich.console import Console

from xlmr_sweep.commands import check, entry
from xlmr_sweep.commands.request import Request
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def checked(study: Path, storage: Path, address: str = "local") -> tuple[int, dict[str, str]]:
    """Returns the exit status, and each line without what was checked, by that."""
    text = StringIO()
    status = entry.check(Request(str(study), str(storage)), address, Console(file=text, width=1000))
    lines = [line for line in text.getvalue().splitlines() if not line[0].isdigit()]
    return status, {line[7:].partition(": ")[0]: f"{line[:6].strip()} {line.partition(': ')[2]}" for line in lines}


def test_a_study_that_can_run_here_has_nothing_wrong(study_file: Callable[..., Path], tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    status, lines = checked(study_file(), storage)
    assert status == 0, lines
    assert lines["study"].startswith("ok small, 24 trials, 24 to run")
    assert lines["examples"] == "ok 2 tasks, from the folder"
    assert lines["instructions"].startswith("ok 1 files")
    assert "it loads and takes every prompt" in lines["model tiny"]
    assert lines["storage"].startswith("ok written, read and renamed; ")
    assert lines["room"] == "ok every trial and instruction job fits"
    assert {
        "token",
        "cluster",
        "Python and packages",
        "memory",
        "scratch",
        "cache",
        "open files",
        "shared memory",
    } <= lines.keys()
    assert not storage.exists(), files(storage)


@pytest.mark.parametrize("left_by", [KeyboardInterrupt, SystemExit])
def test_a_check_that_is_left_early_leaves_nothing_in_the_storage(
    left_by: type[BaseException], study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "runs"
    written: list[str] = []

    class Terminal(StringIO):
        def write(self, text: str) -> int:
            if "examples" in text:
                written.extend(files(storage))
                raise left_by
            return super().write(text)

    monkeypatch.setattr("ray.nodes", list)
    monkeypatch.setattr(check, "head_of", lambda address: address)
    monkeypatch.setattr(check, "is_open", lambda target: False)
    monkeypatch.setattr(check, "connected", lambda address: nullcontext())
    # Held, as by whoever says how the command ended.
    with pytest.raises(left_by) as left:
        entry.check(Request(str(study_file()), str(storage)), "127.0.0.1:6379", Console(file=Terminal(), width=1000))
    assert written, "what the nodes are to see is written before the examples are looked at"
    assert left.value is not None
    assert not storage.exists(), files(storage)


def test_all_that_is_wrong_is_said_at_once(study_file: Callable[..., Path], tmp_path: Path, home: Path) -> None:
    study = study_file(cluster={"gpus": 4})
    (tmp_path / "superglue" / "COPA" / "val.jsonl").write_text("{oops\n")
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "instructions.jsonl").unlink()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tmp").write_text("a file in the way")
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    status, lines = checked(study, tmp_path / "runs")
    assert status == 2
    # The study's instructions have no identity without their file, so what depends on the plan is not looked at.
    assert lines["study"].startswith("wrong ")
    assert "instructions.jsonl" in lines["study"]
    assert lines["token"].startswith(f"wrong {token} has mode 644")
    (tmp_path / "instructions.jsonl").write_text('{"inputs": "a b", "targets": "yes"}\n')
    status, lines = checked(study, tmp_path / "runs")
    assert status == 2
    assert "COPA/val.jsonl: line 1: not JSON" in lines["examples"]
    assert lines["model tiny"].startswith("wrong ")
    assert "cannot be written" in lines["storage"]
    assert "expects 4 GPUs and the cluster has none" in lines["room"]


def test_the_hub_is_asked_once_where_neither_storage_nor_cache_has_the_data(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(name: str, **options: object) -> None:
        asked.append(name)
        raise OSError("no route to the hub\nmore")

    api = SimpleNamespace(model_info=unreachable, dataset_info=unreachable)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    study = study_file(models=[{"name": "h", "hub": "some/encoder"}], data={"source": "hub"}, paradigms=["prompted"])
    status, lines = checked(study, tmp_path / "runs")
    assert status == 2
    assert "aps/super_glue cannot be read from the hub (no route to the hub); run prepare_data.py" in lines["examples"]
    assert "some/encoder is not in the cache and the hub does not give it (no route to the hub)" in lines["model h"]
    assert asked == ["aps/super_glue", "some/encoder"]


def test_an_address_where_nobody_answers_is_one_line_and_the_rest_is_looked_at(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    status, lines = checked(study_file(), tmp_path / "runs", "127.0.0.1:1")
    assert status == 2
    assert lines["cluster"].startswith("wrong --address 127.0.0.1:1: nobody answers")
    assert lines["examples"].startswith("ok")
    assert lines["storage"].startswith("ok")


def test_another_driver_of_the_study_is_named(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study, storage = study_file(), Storage(tmp_path / "runs")
    with only_driver(storage):
        assert checked(study, tmp_path / "runs")[1]["driver"].startswith("note process ")
    assert "driver" not in checked(study, tmp_path / "runs")[1]
