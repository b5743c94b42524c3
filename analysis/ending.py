"""Ends a command of the analysis with one line, whatever ends it. In: a block. Out: the exit status of `typer`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from analysis.schema import TableError
from xlmr_sweep.lost_output import has_reader_left
from xlmr_sweep.plain_output import use_plain_output
from xlmr_sweep.unexpected import defect, problem_of_files


@contextmanager
def in_one_line() -> Iterator[None]:
    """Ends the command with status 2 and a line if the table or a file is wrong, and with 1 and a line for a defect of ours."""
    use_plain_output()
    try:
        yield
    except TableError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if has_reader_left(error):
            raise typer.Exit(1) from None
        problem = problem_of_files(error)
        typer.echo(f"error: {problem or defect(error)}", err=True)
        raise typer.Exit(2 if problem else 1) from error
