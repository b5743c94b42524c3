"""`--status --watch`: what the driver's live table shows is seen by another process, until the study is done or Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from xlmr_sweep.commands import watch
from xlmr_sweep.commands.live_file import LIVE_FILE
from xlmr_sweep.commands.live_table import Snapshot
from xlmr_sweep.commands.subcommands import app
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage

COUNTS = {"done": 3, "running": 2, "failed": 1, "waiting": 4, "left out": 0}
SNAPSHOT = Snapshot([("base", "prompted", COUNTS)], 4, 10, 1.5, "GPUs", 0.75, 0.5, 240.0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "runs")


class Watched:
    """A look from outside at a study of ten trials, whose driver does something at each look."""

    def __init__(self, storage: Storage, *steps: Callable[[], None], terminal: bool = False) -> None:
        self.done, self._steps, self._text = 0, iter(steps), StringIO()
        console = Console(file=self._text, width=160, force_terminal=terminal)
        self.status = watch.watch(storage, console, lambda: (self.done, 10), self._sleep)

    def _sleep(self, seconds: float) -> None:
        step: Callable[[], int | None] = next(self._steps)
        self.done = step() or 0

    @property
    def output(self) -> str:
        return self._text.getvalue()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COUNT_INTERVAL_S", 0.0)
    monkeypatch.setattr(watch, "LINE_INTERVAL_S", 0.0)


def test_the_drivers_table_is_shown_and_ctrl_c_ends_the_look_quietly(storage: Storage) -> None:
    with only_driver(storage):
        storage.write_json(LIVE_FILE, asdict(replace(SNAPSHOT, jobs=["instruct-base"])))
        seen = Watched(storage, interrupt, terminal=True)
    assert seen.status == 130
    for said in ("base", "prompted", "running", "4 of 10 trials, 1.5 a minute, GPUs 75% in use (50% on average)", "4 min left"):
        assert said in seen.output
    assert "runs them; instruction jobs: instruct-base" in seen.output
    assert "Interrupted" not in seen.output


def test_on_a_pipe_a_line_is_printed_when_something_has_changed_and_the_end_ends_it(storage: Storage) -> None:
    def more() -> None:
        storage.write_json(LIVE_FILE, asdict(replace(SNAPSHOT, num_ended=5)))

    def all_done() -> int:
        storage.delete(LIVE_FILE)
        return 10

    with only_driver(storage):
        storage.write_json(LIVE_FILE, asdict(SNAPSHOT))
        seen = Watched(storage, lambda: None, more, all_done)
    assert seen.status == 0
    lines = seen.output.splitlines()
    assert [line.partition(" trials")[0] for line in lines] == ["4 of 10", "5 of 10", "10 of 10"]
    assert lines[-1] == "10 of 10 trials have a record"


def test_what_a_killed_driver_left_is_not_taken_for_a_run(storage: Storage) -> None:
    storage.write_json(LIVE_FILE, asdict(SNAPSHOT))
    seen = Watched(storage, interrupt)
    assert seen.output == "0 of 10 trials have a record; nobody runs this study now\n"


def test_a_driver_whose_trials_have_not_begun_is_named(storage: Storage) -> None:
    with only_driver(storage):
        seen = Watched(storage, interrupt)
    assert "0 of 10 trials have a record; process " in seen.output
    assert "runs this study; its trials have not begun" in seen.output


def test_watch_goes_with_status_alone(tmp_path: Path) -> None:
    asked = ["run", "--study", "demo", "--storage", str(tmp_path / "runs"), "--watch"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 2
    assert "--watch: goes with --status" in said.output
