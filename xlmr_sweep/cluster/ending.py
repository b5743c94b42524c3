"""How a run ends early, in order: nothing new starts, what ends in time is kept, jobs save checkpoints.

In: the notice that the command's time is nearly over, and the nodes that are about to be taken away. If all of them are, that is
such a notice too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xlmr_sweep.cluster.jobs import InstructionJobs
from xlmr_sweep.cluster.nodes import NodeWatch
from xlmr_sweep.interrupt import Notice, end_early
from xlmr_sweep.scheduling.admission import Admission

SAVE_S = 15.0
"""A command that is interrupted waits at most this long for checkpoints. It must end within half a minute."""

POLL_S = 0.2


class Ending:
    """Ends one run early, if it is to.

    Args:
        notice: the command's.
        admission: what waits and what is live.
        jobs: the instruction jobs.
        say: shows a line.
        take_back: takes back the trials that were handed out and have not started.
    """

    def __init__(
        self,
        notice: Notice,
        admission: Admission,
        jobs: InstructionJobs,
        say: Callable[[str], None],
        take_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._notice, self._admission, self._jobs, self._say, self._take_back = notice, admission, jobs, say, take_back
        self._seen: set[str] = set()
        self._is_begun = False

    def poll(self, nodes: NodeWatch) -> None:
        """Looks for a notice."""
        new = nodes.draining.keys() - self._seen
        if new:
            self._seen |= new
            self._jobs.save(new)
            if not nodes.nodes:
                left = [seconds for seconds in nodes.draining.values() if seconds is not None]
                self._notice.give(min(left, default=None))
        if self._notice.is_given and not self._is_begun:
            self._is_begun = True
            self._admission.close()
            self._take_back()
            self._jobs.save()
            under_way = len(self._admission.live)
            self._say(f"Ending soon: nothing more is started; {under_way} trials under way may still end")

    @contextmanager
    def saves_first(self) -> Iterator[None]:
        """Where the block is interrupted, by SIGTERM or Ctrl-C, instruction jobs save checkpoints before it ends."""
        try:
            yield
        except KeyboardInterrupt:
            self._jobs.save()
            deadline = time.monotonic() + SAVE_S
            while self._jobs.is_saving and time.monotonic() < deadline:
                time.sleep(POLL_S)
            raise

    def finish(self) -> None:
        """Ends the command if the run was ended early and something is left to do."""
        if self._notice.is_given and not self._admission.is_done:
            end_early()
