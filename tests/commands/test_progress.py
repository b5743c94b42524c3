"""Progress: quiet on a pipe, bars on a terminal, the end always said."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from xlmr_sweep.commands.progress import ProgressDisplay


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: one number of seconds, which a test moves on."""
    seconds = [100.0]
    monkeypatch.setattr("xlmr_sweep.commands.progress.time.monotonic", lambda: seconds[0])
    return seconds


def pipe() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=200), stream


def test_on_a_pipe_a_step_says_one_line_at_its_end(now: list[float]) -> None:
    console, stream = pipe()
    with ProgressDisplay(console).step("Trials", 300) as step:
        for done in range(301):
            step.update(done)
            now[0] += 0.1
    assert stream.getvalue() == "Trials: 300 of 300 in 30.1 s\n"


def test_a_long_step_says_where_it_is_and_what_is_left(now: list[float]) -> None:
    console, stream = pipe()
    with ProgressDisplay(console).step("Trials", 40) as step:
        for done in (10, 20):
            now[0] += 61
            step.update(done)
    assert stream.getvalue().splitlines()[:2] == ["Trials: 10 of 40, about 3 min left", "Trials: 20 of 40, about 2 min left"]


def test_on_a_terminal_there_is_a_bar() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(Console(file=stream, force_terminal=True, width=120))
    with display.step("Trials", 3) as step, display.step("Weights", 2) as other:
        step.update(2, note="a trial")
        other.update(1)
    assert "2/3" in stream.getvalue()
    assert "1/2" in stream.getvalue()
    assert list(display.spans) == ["Weights", "Trials"]


def test_a_step_with_an_estimate_of_its_own_shows_no_other(now: list[float]) -> None:
    console, stream = pipe()
    with ProgressDisplay(console).step("Trials", 40, lambda: 1800.0) as step:
        now[0] += 61
        step.update(10)
    assert stream.getvalue().splitlines()[0] == "Trials: 10 of 40, about 30 min left"
    screen = io.StringIO()
    with ProgressDisplay(Console(file=screen, force_terminal=True, width=120)).step("Trials", 40, lambda: 1800.0) as step:
        step.update(10)
    assert "30 min" in screen.getvalue()


def test_what_ran_beside_a_step_is_counted_within_it(now: list[float]) -> None:
    console, _ = pipe()
    display = ProgressDisplay(console)
    with display.step("Data"):
        now[0] += 3
    with display.step("Trials", 2):
        now[0] += 1
        with display.step("Instruction tuning a"):
            now[0] += 50
        now[0] += 10
    assert display.where_the_time_went() == "data 3 s, trials 61 s (meanwhile instruction tuning a 50 s)"


def test_of_two_steps_side_by_side_the_longer_one_counts() -> None:
    display = ProgressDisplay(Console(quiet=True))
    display.spans = {"Pre-training a": (0.0, 31.0), "Pre-training b": (0.1, 44.0), "Data": (44.0, 44.05), "Trials": (44.1, 50.0)}
    assert display.where_the_time_went() == "pre-training b 44 s (meanwhile pre-training a 31 s), data 0 s, trials 6 s"


def test_a_step_that_ended_says_nothing_more(now: list[float]) -> None:
    console, stream = pipe()
    with ProgressDisplay(console).step("Pre-training tiny", 10) as step:
        step.update(10)
    now[0] += 100
    step.update(10)
    assert stream.getvalue() == "Pre-training tiny: 10 of 10 in 0.0 s\n"
