"""Says within seconds that the head of the cluster is gone, and ends the command in order.

Ray itself says nothing for a minute when its head (`gcs_server`) dies. Then it ends the process, with words and a status of its
own.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ASK_INTERVAL_S = 1.0

MAX_MISSES = 3
"""The head counts as gone when nobody has answered this many times in a row. The kernel answers, so a busy machine does too."""

ANSWER_TIMEOUT_S = 5.0

RETURN_S = 30.0
"""A head of a cluster may be started again (with Redis behind it). Ray itself gives it 60 s and then ends the process at once."""

KEPT = "What is done is kept; the same command goes on"


def answers(address: str) -> bool:
    """Tells whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def gone(address: str) -> str:
    """Returns the line, without its full stop, with which a command ends whose head is gone."""
    return f"the head of Ray at {address} (gcs_server) is gone. {KEPT}"


class HeadWatch:
    """Asks the head once a second whether it is there, in a thread of its own.

    Args:
        address: HOST:PORT of the head.
        say: shows a line.
        end: ends the command, with the line to end with. Called once, in the thread.
        return_s: how long a head that is gone may take to come back.
        ask: tells whether the head answers.
    """

    def __init__(
        self,
        address: str,
        say: Callable[[str], None],
        end: Callable[[str], None],
        return_s: float = 0.0,
        ask: Callable[[str], bool] = answers,
    ) -> None:
        self._address, self._say, self._end, self._return_s, self._ask = address, say, end, return_s, ask
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watches for the length of the block."""
        watcher = threading.Thread(target=self._watch, daemon=True, name="head watch")
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(ASK_INTERVAL_S):
            if not self._missing() or self._ended.is_set():
                continue
            if self._return_s and self._comes_back():
                self._say(f"The head of the Ray cluster at {self._address} answers again.")
                continue
            self._end(gone(self._address))
            return

    def _missing(self) -> bool:
        for _ in range(MAX_MISSES):
            if self._ask(self._address):
                return False
            if self._ended.wait(ASK_INTERVAL_S):
                return False
        return True

    def _comes_back(self) -> bool:
        self._say(
            f"Nobody answers at the head of the Ray cluster, {self._address}. "
            f"This command ends if nobody answers for {self._return_s:g} s more. {KEPT}."
        )
        deadline = time.monotonic() + self._return_s
        while time.monotonic() < deadline and not self._ended.wait(ASK_INTERVAL_S):
            if self._ask(self._address):
                return True
        return self._ended.is_set()
