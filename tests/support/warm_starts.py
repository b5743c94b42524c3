"""Commands and Ray's own processes with torch and transformers from the start: forks of one process that imported them.

A Ray begins with about six processes of Python and has one more for each worker, and each takes seconds to import what all of
them need. `warm_start/sitecustomize.py` hands them over to forks of this module's process. Ray itself is not among what they
have: it reads its variables once, when it is imported.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patience import wait_for
from programs import run_program

SUPPORT = Path(__file__).parent
SOCKET = "XLMR_SWEEP_WARM_SOCKET"
EACH_ITS_OWN = {
    *(
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "PYTHONBREAKPOINT",
        "PATH",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "HOME",
        "TMPDIR",
        "COLUMNS",
        "LINES",
    ),
    *("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "HF_HUB_VERBOSITY", "PYTEST_CURRENT_TEST"),
}
"""Variables that modules read when they are imported, and that change nothing in what is tested here."""
NATIVE = ("OMP_", "MKL_", "KMP_", "GOMP_", "TORCH_", "PYTORCH_", "PYTHON")
"""What the names of variables begin with that are read by what is not Python."""


@contextmanager
def warm_starts() -> Iterator[dict[str, str]]:
    """Within the block, there is a warm process; gives the variables with which processes are forked from it."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder, (Path(folder) / "log").open("w") as log:
        path = Path(folder) / "socket"
        (path.parent / "forks").mkdir()
        variables = {"PYTHONPATH": os.pathsep.join([str(SUPPORT / "warm_start"), *filter(None, sys.path)])}
        command, environment = [sys.executable, __file__, str(path)], {**os.environ, **variables}
        # It ends when its standard input does: with this process, however that ends.
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
        wait_for(lambda: path.exists() or process.poll() is not None, every_s=0.2)
        assert path.exists(), (Path(folder) / "log").read_text()
        yield {**variables, SOCKET: str(path)}
        process.kill()
        process.wait()


def forks() -> dict[int, int]:
    """Returns the forks that live, by id, each with the process that waits for it."""
    if not os.environ.get(SOCKET):
        return {}
    found = {}
    for path in (Path(os.environ[SOCKET]).parent / "forks").iterdir():
        with suppress(OSError, ValueError):  # It has just ended.
            found[int(path.name)] = int(path.read_text())
    return found


class _Forks:
    """Forks a process for each that asks, and tells it how that ended."""

    def __init__(self, path: Path, read: dict[str, str | None]) -> None:
        self._path, self._read, self._forks = path, read, path.parent / "forks"
        self._lines: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Serves until the tests have ended."""
        server = socket.socket(socket.AF_UNIX)
        new = self._path.with_suffix(".new")
        server.bind(str(new))
        server.listen(100)
        ended, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for file, meaning in ((server, "begin"), (sys.stdin, "leave"), (ended, "ended")):
            self._selector.register(file, selectors.EVENT_READ, meaning)
        new.rename(self._path)
        while True:
            for key, _ in self._selector.select():
                if key.data == "leave":
                    return
                if key.data == "begin":
                    self._begin(server)
                elif key.data == "ended":
                    os.read(ended, 1000)
                else:
                    # The process that waited for this fork was killed.
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)
            self._reap()

    def _begin(self, server: socket.socket) -> None:
        line, _ = server.accept()
        size, files, _, _ = socket.recv_fds(line, 8, 250)
        packed = b""
        while len(packed) < int.from_bytes(size, "big"):
            packed += line.recv(1 << 20)
        told = json.loads(packed)
        if differ := self._differing(told["variables"]):
            print("cold", told["arguments"][0], differ, flush=True)
            line.sendall(b" " * 16)
            line.close()
        elif pid := os.fork():
            # Before anybody knows of the fork.
            (self._forks / str(pid)).write_text(str(told["pid"]))
            line.sendall(str(pid).encode().ljust(16))
            self._lines[pid] = line
            self._selector.register(line, selectors.EVENT_READ, pid)
        else:
            try:
                self._close(server, line)
                _become(told, files)
            finally:
                os._exit(1)
        for number in files:
            os.close(number)

    def _differing(self, variables: dict[str, str]) -> list[str]:
        """Returns the names of variables that modules would have read otherwise."""
        native = {name: os.environ.get(name) for name in {*variables, *os.environ} if name.startswith(NATIVE)}
        read = {name: value for name, value in (self._read | native).items() if name not in EACH_ITS_OWN}
        return sorted(name for name, value in read.items() if (variables.get(name) or None) != (value or None))

    def _close(self, *others: socket.socket) -> None:
        """Closes, in a fork, what is the warm process's own."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for line in (*others, *self._lines.values()):
            line.close()

    def _reap(self) -> None:
        while self._lines:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            (self._forks / str(pid)).unlink()
            line = self._lines.pop(pid)
            with suppress(KeyError, OSError):  # Nobody waits for it any more.
                self._selector.unregister(line)
                line.sendall(str(status).encode().ljust(16))
            line.close()


def _become(told: dict[str, Any], files: list[int]) -> None:
    """Makes a fork what the other process would have become, and runs its program."""
    # First out of the way of the numbers that they shall have.
    far = [os.dup2(number, 1000 + place) for place, number in enumerate(files)]
    for number in files:
        os.close(number)
    for held, number in zip(far, told["files"], strict=True):
        os.dup2(held, number, inheritable=True)
        os.close(held)
    os.setsid()
    os.umask(told["umask"])
    os.setpriority(os.PRIO_PROCESS, 0, max(told["niceness"], os.getpriority(os.PRIO_PROCESS, 0)))
    os.environ.clear()
    os.environ.update(told["variables"])
    sys.path[:] = list(dict.fromkeys([*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]))
    os.chdir(told["folder"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        setattr(sys, name, os.fdopen(number, mode, buffering=1, closefd=False) if number in told["files"] else None)
    arguments = told["arguments"]
    _run(_worker_of(arguments) if arguments[0].endswith("/setup_worker.py") else arguments)


def _worker_of(arguments: list[str]) -> list[str]:
    """Does what Ray's setup of a worker does before the worker takes its place; returns the worker's command."""
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs
    from ray._private.workers.setup_worker import parser

    known, rest = parser.parse_known_args(arguments[1:])
    context = RuntimeEnvContext.deserialize(known.serialized_runtime_env_context or "{}")
    assert context.py_executable == sys.executable
    assert not context.command_prefix
    update_envs(context.env_vars)
    return [argument for argument in rest if argument != "-u"]


def _run(arguments: list[str]) -> None:
    """Runs a program, or a module after -m, and ends the process as an interpreter ends."""
    import atexit
    import threading
    import traceback

    sys.orig_argv[:] = [sys.executable, *arguments]
    code: Any = 0
    try:
        run_program(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code or 0)


def _imported() -> dict[str, str | None]:
    """Imports what all need; returns the variables that were read meanwhile, with their values."""
    read: dict[str, str | None] = {}
    kind: Any = type(os.environ)
    plain = kind.__getitem__

    def noted(self: Any, name: str) -> str:
        try:
            value: str = plain(self, name)
        except KeyError:
            read.setdefault(name, None)
            raise
        read.setdefault(name, value)
        return value

    kind.__getitem__ = noted
    import warm_modules  # noqa: F401

    kind.__getitem__ = plain
    return read


if __name__ == "__main__":
    _read = _imported()
    _threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    # A fork has one thread. That of the allocator begins again by itself.
    assert len([name for name in _threads if name != "jemalloc_bg_thd"]) == 1, _threads
    assert "ray" not in sys.modules
    _Forks(Path(sys.argv[1]), _read).serve()
