"""Runs the project's commands as a user does: in processes of their own, from the project's root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MARK = "XLMR_SWEEP_TEST"
ROOT = Path(__file__).parents[2]


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
    def output(self) -> str:
        return self.log.read_text()

    def end(self, timeout: float = 300) -> int:
        """Waits for the exit status, and notes which processes the command has meanwhile."""
        deadline = time.monotonic() + timeout
        while (status := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"did not end:\n{self.output}"
            self.processes()
            time.sleep(0.3)
        return status

    def wait_for(self, condition: Callable[[], bool], timeout: float = 240) -> None:
        """Waits until something is so while the command runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"ended early with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.output}"
            time.sleep(0.1)

    def processes(self, holding: bytes = b"") -> list[int]:
        """Returns the ids of all live processes that the command started, directly or not, whose command line holds a text.

        Marked by a variable of their environment, or children of such; a process title overwrites the former, and the death of
        a parent loses the latter, so what was seen once is remembered by its start time.
        """
        table = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                environment = (entry / "environ").read_bytes()
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if fields[0] != "Z":
                marked = f"{MARK}={self.name}".encode() in environment
                table[int(entry.name)] = (int(fields[1]), fields[19], marked, line)
        grown = True
        while grown:
            grown = False
            for pid, (parent, began, marked, _) in table.items():
                if (pid, began) not in self._seen and (marked or (parent in table and (parent, table[parent][1]) in self._seen)):
                    self._seen.add((pid, began))
                    grown = True
        return [pid for pid, (_, began, _, line) in table.items() if (pid, began) in self._seen and holding in line]

    def left_behind(self, timeout: float = 30) -> list[int]:
        """Returns the processes that are still there some seconds after the command ended.

        Ray's two agents of a node notice the death of their raylet only at their next look, a minute or so later; they are not
        waited for.
        """
        deadline = time.monotonic() + timeout

        def left() -> list[int]:
            agents = self.processes(b"ray::DashboardAgent") + self.processes(b"ray::RuntimeEnvAgent")
            return sorted(set(self.processes()) - set(agents))

        while left() and time.monotonic() < deadline:
            time.sleep(0.2)
        return left()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the command alone."""
        self.processes()
        os.kill(self.process.pid, number)


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

    def begin(*arguments: str, timeout: float = 300, **variables: str) -> tuple[int, str]:
        command = start(*arguments, **variables)
        return command.end(timeout), command.output

    return begin
