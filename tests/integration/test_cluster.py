"""A cluster of two nodes by docker/'s own commands, with a token and logical GPUs: fractions, gangs, `--address auto`."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from builders import make_encoder, make_superglue
from patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
GRID = "experiments/run_grid.py"
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def write_study(folder: Path) -> Path:
    make_superglue(folder / "superglue", ("copa",))
    make_encoder(folder / "encoder")
    make_encoder(folder / "other", seed=1)
    study = {
        "name": "gangs",
        "models": [
            {"name": "shared", "folder": "encoder", "gpus": "1/2", "cpus": 0.5},
            {"name": "wide", "folder": "other", "gpus": 2, "cpus": 0.5},
        ],
        "paradigms": ["baseline", "prompted"],
        "tasks": ["copa"],
        "sizes": [4],
        "seeds": [0, 1],
        "data": {"source": "folder", "folder": "superglue"},
        "finetune": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32"},
        "cluster": {"gpus": 2},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def free_port() -> int:
    """Returns a port that nobody listens on, below those that outgoing connections get and above those of Ray's workers."""
    while answers(port := random.randrange(20_000, 32_000)):
        pass
    return port


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a shell file of docker/ with its own environment; ends its process group after the test."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    started: list[subprocess.Popen[str]] = []

    def begin(name: str, **variables: str) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        environment = {**os.environ, "PATH": path, "COLUMNS": "200", **auth, **variables}
        log = (tmp_path / f"{name}.log").open("w")
        started.append(
            subprocess.Popen(
                ["bash", f"docker/{name}"], cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True, text=True
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    for process in started:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_containers_commands_run_a_study_of_fractions_and_gangs(
    tmp_path: Path, shell: Callable[..., subprocess.Popen[str]], run: Callable[..., tuple[int, str]]
) -> None:
    study = write_study(tmp_path)
    port = free_port()
    storage = tmp_path / "runs"
    head = shell(
        "head.sh",
        RAY_PORT=str(port),
        NUM_NODES="2",
        RAY_OPTIONS="--num-cpus 2 --num-gpus 2 --include-dashboard false",
        STUDY_OPTIONS=f"--study {study} --storage {storage}",
    )
    # The head waits for its second node, so a driver without the token meets a running cluster and is told so.
    while not answers(port):
        assert head.poll() is None, (tmp_path / "head.sh.log").read_text()
        time.sleep(0.2)
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    elsewhere = ["--storage", str(tmp_path / "elsewhere"), "--address", f"127.0.0.1:{port}"]
    status, output = run(GRID, "--study", str(study), *elsewhere, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert status == 2, output
    assert f"Error: --address 127.0.0.1:{port}: the cluster refuses this process's token" in output
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    # Ray was told of GPUs that are not there, and the token's file is readable by all: both are said, and the rest is well.
    status, output = run(GRID, "--check", "--study", str(study), *elsewhere, **token)
    assert status == 2, output
    assert "wrong  CUDA and driver: " in output
    assert "Ray counts 2 GPUs and no NVIDIA driver answers" in output
    assert f"wrong  token: RAY_AUTH_TOKEN_PATH = {tmp_path / 'token'} has mode 644" in output
    assert "ok     storage: written, read and renamed; " in output
    assert "ok     examples: 1 tasks, from the folder" in output
    assert "ok     models on nodes: each has the folders or the hub" in output
    assert output.count("wrong  ") == 2, output
    (tmp_path / "token").chmod(0o600)

    shell("worker.sh", HEAD_ADDRESS=f"127.0.0.1:{port}", RAY_OPTIONS="--num-cpus 1 --num-gpus 1", ATTEMPTS="30")
    assert head.wait(PATIENCE_S) == 0, (tmp_path / "head.sh.log").read_text()
    table: Any = pd.read_parquet(storage / "results.parquet").set_index(["model", "paradigm", "seed"])
    assert len(table) == 8
    assert set(table.loc["wide"]["num_ranks"]) == {2}
    assert set(table.loc["wide"]["num_gpus"]) == {2.0}
    assert set(table.loc["shared"]["num_gpus"]) == {0.5}
    assert "8 of 8 trials have a record" in (tmp_path / "head.sh.log").read_text()


def test_an_address_where_nobody_answers_is_said_first(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    study = write_study(tmp_path)
    port = free_port()
    status, output = run(GRID, "--study", str(study), "--storage", str(tmp_path / "runs"), "--address", f"127.0.0.1:{port}")
    assert status == 2
    assert f"Error: --address 127.0.0.1:{port}: nobody answers" in output
    assert not (tmp_path / "runs" / "data").exists(), "data were prepared first"
