"""What one sees of a run: counts by model and paradigm, throughput, use, estimated end; lines on a pipe."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from xlmr_sweep.commands.live_table import LiveTable
from xlmr_sweep.commands.progress import ProgressDisplay, duration
from xlmr_sweep.study.plan import Trial

TRIALS = [Trial(model, "prompted", "cb", 8, seed, f"{model}{seed}") for model in ("base", "xl") for seed in range(4)]
BASE, XL = TRIALS[:4], TRIALS[4:]
FAILURE = {"error_class": "DivergedError", "message": "the loss is nan\nat step 3", "host": "node-7"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(
    terminal: bool = False, capacity: Callable[[], float] = lambda: 4, **options: Any
) -> tuple[LiveTable, Clock, io.StringIO, Console]:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, width=150, force_terminal=terminal, color_system=None)
    return (
        LiveTable(console, TRIALS, capacity, "GPUs", lambda t: f"/runs/logs/{t.trial_id}.log", clock=clock, **options),
        clock,
        stream,
        console,
    )


def drawn(live_table: LiveTable) -> str:
    stream = io.StringIO()
    Console(file=stream, width=150).print(live_table.table())
    return stream.getvalue()


def row_of(text: str, model: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {model} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_counts_use_throughput_and_end() -> None:
    live_table, clock, _, _ = make()
    for trial in XL[:2]:
        live_table.started(trial, 2)
    clock.now += 60
    assert live_table.in_use() == (1.0, 1.0)
    live_table.finished(XL[0], {"score": 0.5})
    live_table.gave_up(XL[1], FAILURE)
    live_table.started(BASE[0], 1)
    clock.now += 60
    assert live_table.in_use() == (0.25, 0.625)
    assert live_table.throughput() == pytest.approx(0.5)
    assert live_table.remaining_s() == pytest.approx(120 / 2 * 6)
    text = drawn(live_table)
    assert row_of(text, "xl") == ["xl", "prompted", "1", "", "1", "2"]
    assert row_of(text, "base") == ["base", "prompted", "", "1", "", "3"]
    assert "2 of 8 trials, 0.5 a minute, GPUs 25% in use (62% on average), about 6 min left" in text


def test_an_instruction_job_is_use_of_the_cluster() -> None:
    live_table, clock, _, _ = make()
    with live_table.job("instruct xl", 4):
        clock.now += 60
        assert live_table.in_use() == (1.0, 1.0)
    clock.now += 60
    assert live_table.in_use() == (0.0, 0.5)


def test_use_is_of_the_cluster_as_it_is_and_was() -> None:
    capacity = [4.0]
    live_table, clock, _, _ = make(capacity=lambda: capacity[0])
    for trial in XL[:2]:
        live_table.started(trial, 2)
    clock.now += 60
    assert live_table.in_use() == (1.0, 1.0)
    # Another node joins, as large as the first.
    capacity[0] = 8.0
    for trial in XL[2:]:
        live_table.started(trial, 2)
    assert live_table.in_use() == (1.0, 1.0)
    live_table.finished(XL[0], {"score": 0.5})
    live_table.finished(XL[1], {"score": 0.5})
    clock.now += 60
    assert live_table.in_use() == (0.5, pytest.approx(8 / 12))
    capacity[0] = 0.0
    assert live_table.in_use() == (0.0, pytest.approx(8 / 12))


def test_throughput_is_of_the_last_ten_minutes() -> None:
    live_table, clock, _, _ = make()
    live_table.started(BASE[0], 1)
    live_table.finished(BASE[0], {"score": 1})
    clock.now += 599
    assert live_table.throughput() > 0
    clock.now += 2
    assert live_table.throughput() == 0


def test_a_model_of_costs_has_the_word_on_the_end() -> None:
    live_table, _, _, _ = make(remaining_s=lambda: 7200.0)
    assert "about 2.0 h left" in drawn(live_table)
    assert make(remaining_s=lambda: None)[0].remaining_s() is None


def test_on_a_pipe_one_line_a_finished_trial_and_the_whole_story_of_a_failed_one() -> None:
    live_table, clock, stream, _ = make()
    live_table.started(BASE[0], 1)
    clock.now += 30
    live_table.finished(BASE[0], {"score": 0.75, "total_time_s": 29.5, "host": "node-1"})
    live_table.started(BASE[1], 1)
    live_table.again(BASE[1], {"error_class": "OutOfMemoryError", "message": "", "host": "node-1"}, "on 1/2 of a GPU")
    live_table.started(BASE[1], 1)
    live_table.gave_up(BASE[1], FAILURE)
    live_table.left_out(BASE[2:], "model base: the same error 3 times")
    assert stream.getvalue().splitlines() == [
        "base/prompted/cb/n=8/seed=0: score 0.7500 in 29.5 s on node-1; 1 of 8, about 4 min left",
        "Again base/prompted/cb/n=8/seed=1: OutOfMemoryError on node-1; on 1/2 of a GPU",
        "Failed base/prompted/cb/n=8/seed=1: DivergedError on node-7: the loss is nan (log: /runs/logs/base1.log)",
        "Stopped: model base: the same error 3 times. 2 trials are left out; the same command will run them",
    ]
    assert row_of(drawn(live_table), "base") == ["base", "prompted", "1", "", "1", "", "2"]
    assert live_table.num_ended == 4


def test_a_terminal_shows_one_table_with_the_bars_and_no_line_a_finished_trial() -> None:
    live_table, _, stream, console = make(terminal=True)
    display = ProgressDisplay(console)
    with display.step("Instruction tuning xl", 100) as step, display.panel(live_table.table):
        step.update(50)
        live_table.started(BASE[0], 1)
        live_table.finished(BASE[0], {"score": 1.0})
        live_table.started(BASE[1], 1)
        live_table.gave_up(BASE[1], FAILURE)
    text = stream.getvalue()
    assert "Instruction tuning xl" in text
    assert "Failed base/prompted/cb/n=8/seed=1" in text
    assert "score 1.0" not in text
    assert row_of(text[text.rindex("Trials") :], "base") == ["base", "prompted", "1", "", "1", "2"]


@pytest.mark.parametrize("terminal", [True, False])
def test_an_interrupted_run_shows_its_table_once_more_and_nothing_in_it_runs(terminal: bool) -> None:
    live_table, _, stream, console = make(terminal=terminal)
    display = ProgressDisplay(console)

    def interrupted() -> None:
        with display.panel(live_table.table), live_table.until_interrupted(), live_table.job("instruct-base", 0.5):
            live_table.started(BASE[0], 1)
            live_table.finished(BASE[0], {"score": 1.0})
            live_table.started(BASE[1], 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = stream.getvalue()
    assert row_of(text[text.rindex("Trials") :], "base") == ["base", "prompted", "1", "", "", "3"]
    assert "1 of 8 trials" in text
    assert live_table.in_use()[0] == 0


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
