"""Runs the project's commands as a user does: in processes of their own, from the project's root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, wait_for
from rays import start_patiently, without_token
from warm_starts import SOCKET, forks, warm_starts

MARK = "XLMR_SWEEP_TEST"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def _warm() -> Iterator[None]:
    """Ray's processes and commands are forked from a warm one, unless the variable of its socket says otherwise."""
    if SOCKET in os.environ:
        yield
        return
    with warm_starts() as variables, pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        yield


class Command:
    """A command under way, with what it prints in a file."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self.name = uuid.uuid4().hex
        self._seen: set[tuple[int, str]] = set()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment | {MARK: self.name},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The id of the process that does the command's work."""
        return next((pid for pid, waits in forks().items() if waits == self.process.pid), self.process.pid)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def end(self, timeout: float = PATIENCE_S) -> int:
        """Waits for the exit status. Meanwhile notes which processes the command has."""
        deadline = time.monotonic() + timeout
        while (status := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"did not end:\n{self.output}"
            self.processes()
            # Each look goes through all processes of the machine.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        return status

    def wait_for(self, condition: Callable[[], bool], every_s: float = 0.05) -> None:
        """Waits until something is so while the command runs."""
        wait_for(lambda: condition() or self.process.poll() is not None, lambda: self.output, every_s)
        assert self.process.poll() is None, f"ended early with {self.process.returncode}:\n{self.output}"

    def processes(self, holding: bytes = b"") -> list[int]:
        """Returns the ids of all live processes that the command started, directly or not, whose command line holds a text.

        They are known by a variable of their environment, or as children of such processes. A process title overwrites the
        variable, and a parent's death hides its children. So a process that was seen once is remembered, by its start time.
        """
        table = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                environment = (entry / "environ").read_bytes()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if fields[0] != "Z":
                table[pid] = (int(fields[1]), fields[19], f"{MARK}={self.name}".encode() in environment, line)
        # A fork of the warm process takes the place of the process that waits for it. Until it has a title of its own, the
        # other's command line tells what it is.
        for pid, waits in forks().items():
            if pid in table and waits in table:
                parent, _, marked, line = table.pop(waits)
                table[pid] = (parent, table[pid][1], marked, table[pid][3] + b"\0" + line)
        grown = True
        while grown:
            grown = False
            for pid, (parent, began, marked, _) in table.items():
                if (pid, began) not in self._seen and (marked or (parent in table and (parent, table[parent][1]) in self._seen)):
                    self._seen.add((pid, began))
                    grown = True
        return [pid for pid, (_, began, _, line) in table.items() if (pid, began) in self._seen and holding in line]

    def wait_until_gone(self) -> None:
        """Waits until no process of the command is left.

        Ray's two agents of a node are not waited for: they notice only after a minute or so that their raylet died.
        """

        def left() -> list[int]:
            agents = self.processes(b"ray::DashboardAgent") + self.processes(b"ray::RuntimeEnvAgent")
            return sorted(set(self.processes()) - set(agents))

        wait_for(lambda: not left(), lambda: f"processes {left()} outlived the command")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the command alone."""
        self.processes()
        os.kill(self.process.pid, number)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark of faults, which looks at a cluster's processes. Forks count as what they stand for."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    from benchmarks import faults

    below_raylets = faults.processes

    def processes(cluster: Any) -> dict[int, str]:
        found = below_raylets(cluster)
        for pid, waits in forks().items():
            if found.pop(waits, None):
                with suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return found

    monkeypatch.setattr(faults, "processes", processes)
    return faults


@pytest.fixture
def nothing_is_left(cluster: Any, faults: Any) -> Callable[[], None]:
    """Returns what waits until no placement group, no actor and no process of a trial or a job is there any more."""
    return lambda: wait_for(lambda: not faults.leftovers(cluster), lambda: faults.leftovers(cluster))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts commands and makes sure none outlives its module."""
    started: list[Command] = []

    def begin(*arguments: str, **variables: str) -> Command:
        environment = {**os.environ, "COLUMNS": "200", **variables}
        log = tmp_path_factory.mktemp("command") / "output.txt"
        started.append(Command(list(arguments), log, environment))
        return started[-1]

    yield begin
    for command in started:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


@pytest.fixture(scope="module")
def run(start: Callable[..., Command]) -> Callable[..., tuple[int, str]]:
    """Runs a command to its end; returns exit status and output."""

    def begin(*arguments: str, **variables: str) -> tuple[int, str]:
        command = start(*arguments, **variables)
        return command.end(), command.output

    return begin


@pytest.fixture(scope="module")
def running_ray() -> Iterator[list[str]]:
    """One Ray of two CPUs for several commands, so that none waits for its own; returns the options with which they join it."""
    from ray.cluster_utils import Cluster

    with without_token():
        size = {"num_cpus": 2, "include_dashboard": False}
        cluster = start_patiently(lambda: Cluster(initialize_head=True, head_node_args=size))
    yield ["--address", cluster.address]
    cluster.shutdown()
