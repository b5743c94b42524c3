"""Python processes that have torch and transformers from the start: forked from one that imported them, once for all tests.

For tests of what a process does. How a process begins, such as what it imports, needs a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from patience import PATIENCE_S
from programs import run_program


def warm_context() -> Any:
    """Returns multiprocessing's context in which a process begins with what `warm_imports` has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_imports"])
    # The process that all are forked from looks for modules where a new interpreter does.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    return context


class WarmProcess:
    """A Python command in a warm process, with the part of `subprocess.Popen` that tests need. Output is kept in files."""

    def __init__(self, command: Sequence[Any], *, env: dict[str, str] | None = None, cwd: Path | str | None = None) -> None:
        executable, *arguments = map(str, command)
        assert executable == sys.executable
        self.args = command
        self._folder = tempfile.TemporaryDirectory()
        variables, where = dict(os.environ if env is None else env), str(cwd or Path.cwd())
        self._process: BaseProcess = warm_context().Process(target=_run, args=(arguments, variables, where, self._folder.name))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = PATIENCE_S) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def output(self, name: str = "stdout") -> str:
        return (Path(self._folder.name) / name).read_text()


def run_warm(
    command: Sequence[Any],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | str | None = None,
    timeout: float = PATIENCE_S,
    check: bool = False,
    **streams: Any,
) -> subprocess.CompletedProcess[str]:
    """Stands in for `subprocess.run`. Both streams are kept, whatever is asked for them."""
    process = WarmProcess(command, env=env, cwd=cwd)
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
    done = subprocess.CompletedProcess(command, code, process.output(), process.output("stderr"))
    if check:
        done.check_returncode()
    return done


def _run(arguments: list[str], variables: dict[str, str], where: str, folder: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None  # Asked for before, with other variables.
    os.chdir(where)
    for name, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    run_program(arguments)
