"""Runs a command and watches the unshared memory of the Ray workers below it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
SAMPLE_S = 0.5


@dataclass(frozen=True)
class Watched:
    """How a command went."""

    began_at: float
    """Unix time."""
    total_s: float
    peak_uss_bytes: dict[int, int]
    """Of each process that ran trials."""
    output: str


def run_watched(command: Sequence[str], workers: Sequence[str], environment: Mapping[str, str] | None = None) -> Watched:
    """Runs a command to its end.

    Args:
        command: what to run, in the project's folder.
        workers: how the titles of the processes begin whose memory counts. Ray titles a worker `ray::` and what it runs.
        environment: variables on top of this process's.

    Raises:
        RuntimeError: if it fails, with its last lines.
    """
    began_at, began = time.time(), time.monotonic()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
    process = subprocess.Popen(
        list(command), cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=-1
    )
    peaks: dict[int, int] = {}
    titles: set[int] = set()
    try:
        while process.poll() is None:
            _sample(process.pid, tuple(workers), peaks, titles)
            time.sleep(SAMPLE_S)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    total_s = time.monotonic() - began
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    return Watched(began_at, total_s, {pid: peak for pid, peak in peaks.items() if pid in titles}, output)


def _sample(pid: int, workers: tuple[str, ...], peaks: dict[int, int], titles: set[int]) -> None:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for child in children:
        try:
            title = " ".join(child.cmdline())
            if not title.startswith("ray::") and not any(word in title for word in workers):
                continue
            if any(word in title for word in workers):
                titles.add(child.pid)
            peaks[child.pid] = max(peaks.get(child.pid, 0), child.memory_full_info().uss)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def python(*arguments: str) -> list[str]:
    """Returns the command line of this interpreter."""
    return [sys.executable, *arguments]


def newest(folder: Path, pattern: str) -> float:
    """Returns the time of change of the newest file; Unix time."""
    return max(path.stat().st_mtime for path in folder.glob(pattern))
