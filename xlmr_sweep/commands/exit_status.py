"""Runs a command and turns every end into an exit status and at most one line.

0: every trial of this command's plan has a record. 1: some has none. 2: the command, the study or the surroundings are wrong.
130: interrupted; what is done is kept.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.interrupt import INTERRUPTED, KEPT, in_order

PIPE_WIDTH = 160
"""Columns of tables where nobody says how wide the output is."""


def exit_with(command: Callable[[Console], int]) -> None:
    """Runs a command and ends the process with its exit status."""
    leave(status_of(command))


def status_of(command: Callable[[Console], int]) -> int:
    """Runs a command and returns its exit status. Ctrl-C and SIGTERM end it with 130."""
    # Without emoji: a port or a path may hold `:1:`, which rich would turn into a picture.
    console = Console(emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A pipe has no width, and tables folded into 80 columns lose their names.
        console.width = PIPE_WIDTH
    errors = Console(stderr=True, emoji=False)
    # It complains at each try. We say it once, when all tries were in vain.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with in_order():
            return command(console)
    except StudyError as error:
        errors.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except StorageError as error:
        text = f"Error: {error}. What is done is kept; the same command goes on."
        errors.print(text, style="red", highlight=False, markup=False)
        return 1
    except KeyboardInterrupt:
        # Whoever reads the output may have been ended by the same signal.
        with suppress(OSError):
            errors.print(KEPT, highlight=False)
        return INTERRUPTED


def leave(status: int) -> None:
    """Ends the process. An interrupted one does not wait for threads that still talk to a Ray that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status == INTERRUPTED:
        os._exit(status)
    sys.exit(status)
