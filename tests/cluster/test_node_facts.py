"""What a node says of itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.thirdparty import pynvml

from xlmr_sweep.cluster import node_facts
from xlmr_sweep.cluster.node_answers import skew
from xlmr_sweep.cluster.node_facts import NodeQuestion, read_facts
from xlmr_sweep.storage.files import Storage


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with one GPU, that answers as NVIDIA's library does."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
        "nvmlSystemGetDriverVersion": lambda: "570.1",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda gpu: b"H100",
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=80 * 2**30),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_the_driver_and_its_gpus_are_told_and_a_cuda_that_does_not_start(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SimpleNamespace(stdout="803\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: said)
    facts = read_facts(NodeQuestion())
    assert (facts.driver, facts.driver_cuda, facts.gpus) == ("570.1", "12.8", (("H100", 80 * 2**30),))
    assert facts.cuda_problem == "error 803"
    said.stdout = "0\n"
    assert read_facts(NodeQuestion()).cuda_problem == ""
    said.stdout, said.stderr = "", "Traceback\nOSError: libcuda.so.1: cannot open\n"
    assert read_facts(NodeQuestion()).cuda_problem == "OSError: libcuda.so.1: cannot open"


def test_the_cuda_of_torch_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    monkeypatch.setattr(node_facts, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert read_facts(NodeQuestion()).torch_cuda == "13.0"


def test_a_storage_is_written_and_renamed_and_must_hold_what_the_driver_wrote(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs")
    question = NodeQuestion(storage=storage.uri, folder="tmp/check", node_id="n1")
    assert "does not hold what the driver wrote" in read_facts(question).storage_problem
    storage.write("tmp/check/driver", b"driver")
    facts = read_facts(question)
    assert facts.storage_problem == ""
    assert facts.storage_free
    assert storage.read("tmp/check/n1") == b"n1"
    assert storage.names("tmp/check") == ["driver", "n1"]


def test_folders_of_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    there, gone = str(tmp_path), str(tmp_path / "gone")
    assert read_facts(NodeQuestion(folders=(there, gone))).missing == (gone,)


def test_a_clock_is_off_only_by_what_the_way_of_the_question_does_not_explain() -> None:
    assert skew(105.0, asked_s=100.0, answered_s=110.0) == 0.0
    assert skew(97.0, asked_s=100.0, answered_s=110.0) == -3.0
    assert skew(117.0, asked_s=100.0, answered_s=110.0) == 7.0
