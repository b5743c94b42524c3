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

from xlmr_sweep.commands.unattended import ask_nothing, have_a_home
from xlmr_sweep.errors import ClusterGoneError, StorageError, StudyError
from xlmr_sweep.interrupt import INCOMPLETE, INTERRUPTED, in_order, last_words, was_ended
from xlmr_sweep.lost_output import has_reader_left
from xlmr_sweep.plain_output import use_plain_output
from xlmr_sweep.unexpected import ADVICE, defect, problem_of_files

PIPE_WIDTH = 160
"""Columns of tables where nobody says how wide the output is."""


def exit_with(command: Callable[[Console], int]) -> None:
    """Runs a command and ends the process with its exit status."""
    leave(status_of(command))


def status_of(command: Callable[[Console], int]) -> int:
    """Runs a command and returns its exit status. Ctrl-C, SIGTERM and a closed terminal end it with 130."""
    use_plain_output()
    # Without emoji: a port or a path may hold `:1:`, which rich would turn into a picture.
    console = Console(emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A pipe has no width, and tables folded into 80 columns lose their names.
        console.width = PIPE_WIDTH
    errors = Console(stderr=True, emoji=False)
    # It complains at each try. We say it once, when all tries were in vain.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Its import sets the level anew, from this variable.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        with in_order():
            ask_nothing()
            have_a_home()
            return command(console)
    except StudyError as error:
        errors.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except ClusterGoneError as error:
        errors.print(f"Error: {error}.", style="red", highlight=False, markup=False, soft_wrap=True)
        return INCOMPLETE
    except StorageError as error:
        cause = error.__cause__
        advice = ADVICE.get(cause.errno or 0, "") if isinstance(cause, OSError) else ""
        text = f"Error: {error}{advice and f'; {advice}'}. What is done is kept; the same command goes on."
        errors.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    except Exception as error:
        if has_reader_left(error):
            return INCOMPLETE
        problem = problem_of_files(error)
        errors.print(f"Error: {problem or defect(error)}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2 if problem else INCOMPLETE
    except KeyboardInterrupt:
        words, status = last_words()
        # Whoever reads the output may have been ended by the same signal.
        with suppress(OSError):
            errors.print(words, style=None if status == INTERRUPTED else "red", highlight=False, markup=False, soft_wrap=True)
        return status
    except BaseException as error:
        # A panic of a library in Rust is no `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        errors.print(f"Error: {defect(error)}", style="red", highlight=False, markup=False, soft_wrap=True)
        return INCOMPLETE


def leave(status: int) -> None:
    """Ends the process. One that was interrupted or ended does not wait for threads that still talk to a Ray that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status == INTERRUPTED or was_ended():
        os._exit(status)
    sys.exit(status)
