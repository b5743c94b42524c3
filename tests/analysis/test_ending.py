"""Every end of a report or a comparison: one line and an exit status, never a traceback."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from analysis import compare, report
from analysis.ending import in_one_line
from analysis.schema import TableError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (TableError("t.csv: no row"), 2, "error: t.csv: no row\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a"),
            2,
            "error: /a: Permission denied; give this user the right to it\n",
        ),
    ],
)
def test_an_error_is_one_line(error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, in_one_line():
        raise error
    assert (ended.value.exit_code, capsys.readouterr().err) == (status, said)


def test_another_end_is_left_as_it_is() -> None:
    with pytest.raises(typer.Exit) as ended, in_one_line():
        raise typer.Exit(5)
    assert ended.value.exit_code == 5


@pytest.mark.parametrize(("module", "arguments"), [(report, ["--results", "a"]), (compare, ["a", "b"])])
def test_a_defect_in_a_command_is_one_line(
    module: object, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise KeyError("seed")

    monkeypatch.setattr(module, "load", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = CliRunner().invoke(module.app, arguments)  # type: ignore[attr-defined]
    assert done.exit_code == 1
    (file,) = tmp_path.iterdir()
    assert done.stderr == f"error: a defect of xlmr_sweep: KeyError: 'seed'; the traceback is in {file}\n"
