"""The pure pieces of `benchmark.py trials`: what it concludes from what it measured."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xlmr_sweep.modeling.architecture import Architecture

EXPERIMENTS = str(Path(__file__).resolve().parents[2] / "experiments")


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    sys.path.insert(0, EXPERIMENTS)
    try:
        from benchmarks.trial_parts import grids, measures, part_ablation, part_demo, part_share, worlds

        yield SimpleNamespace(
            measures=measures, demo=part_demo, share=part_share, ablation=part_ablation, grids=grids, worlds=worlds
        )
    finally:
        sys.path.remove(EXPERIMENTS)


def side(measures: Any, flipped: dict[tuple[str, int, int], int], last: float = 10.0) -> Any:
    """56 examples a cell with two labels; of the first `flipped` ones the other label is the likelier."""
    cells = {
        cell: measures.CellResult(30, 0.5, [[0.4, 0.6] if i < number else [0.7, 0.3] for i in range(56)])
        for cell, number in flipped.items()
    }
    return measures.Side("a side", last, last + 1, cells, {1: 300, 2: 500})


def test_the_ratio_is_of_the_last_results(parts: Any) -> None:
    plain, ours = side(parts.measures, {}, 388.0), side(parts.measures, {}, 38.8)
    assert parts.measures.speedup(plain, ours) == pytest.approx(10.0)
    assert plain.worst_uss_bytes == 500


def test_cells_agree_within_one_example_and_a_missing_cell_does_not(parts: Any) -> None:
    first, second, third = ("cb", 16, 0), ("cb", 16, 1), ("cb", 64, 0)
    plain = side(parts.measures, {first: 30, second: 30, third: 30})
    ours = side(parts.measures, {first: 31, second: 28})
    # As many right answers as the other side, to other examples, are no agreement.
    assert plain.cells[second].num_correct == ours.cells[second].num_correct
    assert parts.measures.disagreeing(plain, ours) == [second, third]
    assert parts.measures.disagreeing(plain, plain) == []
    fewer = parts.measures.Side("b", 1, 2, {first: parts.measures.CellResult(30, 0.5, [[0.7, 0.3]] * 55)})
    assert first in parts.measures.disagreeing(plain, fewer)


def test_the_farthest_probability_is_told_also_where_all_answers_agree(parts: Any) -> None:
    one, other = (parts.measures.CellResult(1, 0.5, rows) for rows in ([[0.7, 0.3], [0.6, 0.4]], [[0.7, 0.3], [0.9, 0.1]]))
    assert parts.measures.num_different(one, other) == 0
    assert parts.measures.farthest(one, other) == pytest.approx(0.3)
    assert one.answers == [0, 0]


def test_a_goal_without_a_measurement_is_missed(parts: Any) -> None:
    target = parts.measures.Target
    assert target("times", 10.0, 10.0).is_met
    assert not target("times", 9.99, 10.0).is_met
    assert target("share", 0.33, 1 / 3, at_most=True).is_met
    assert not target("share", math.nan, 1 / 3, at_most=True).is_met
    assert not target("times", math.nan, 10.0).is_met


def test_operations_are_those_of_the_closed_form_without_the_head(parts: Any) -> None:
    shape = Architecture(12, 768, 3072, 250_002)
    head = 3 * 2 * (768 * 768 + 768 * 250_002) * 16 * 128
    whole = shape.training_flops(16 * 128, 128)
    assert parts.measures.training_operations(12, 768, 3072, [128] * 16) == pytest.approx(whole - head)
    # The last layer of one asked token: keys and values of all, the rest of one.
    one = parts.measures.training_operations(1, 8, 16, [64], num_asked=1)
    assert one == 3 * (64 * 2 * 2 * 8 * 8 + 2 * (2 * 8 * 8 + 2 * 8 * 16) + 4 * 64 * 8)
    # Padding is no work: two sequences of 64 and 128 tokens are less than two of 128.
    assert parts.measures.training_operations(1, 8, 16, [64]) < parts.measures.training_operations(1, 8, 16, [128]) / 2


def test_the_split_of_a_run_is_read_from_its_last_lines(parts: Any) -> None:
    line = (
        "Where the time went: pre-training tiny 20 s, trials 182 s (meanwhile instruction tuning small 143 s), report 4 s\nmore"
    )
    assert parts.demo.time_split(line) == {"pre-training tiny": 20.0, "trials": 182.0, "report": 4.0}
    assert parts.demo.time_split("nothing") == {}


def test_operations_are_counted_once_by_the_first_kind_that_names_them(parts: Any) -> None:
    found = parts.share.by_kind(
        [
            ("aten::addmm", 2.0), ("aten::mm", 1.0), ("aten::gelu_backward", 0.5), ("strange", 0.25),
            ("autograd::engine::evaluate_function: AddmmBackward0", 1.5),
        ]
    )  # fmt: skip
    autograd = "autograd, and our layers beside what they call"
    assert found == {"matrix products": 3.0, autograd: 1.5, "gelu": 0.5, "other": 0.25}


def test_every_optimisation_can_be_switched_off_and_none_changes_a_score(parts: Any, tmp_path: Path) -> None:
    grid = parts.grids.Grid(tasks=("cb",), sizes=(8,), seeds=(0,), steps=4, max_length=64, learning_rate=1e-3)
    data = parts.worlds.make_data(tmp_path / "data", grid.tasks, words=40)
    for path in data.rglob("*.jsonl"):
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:12]))
    folder = parts.worlds.make_encoder(tmp_path / "encoder", parts.worlds.SMALL_XLMR, parts.worlds.data_texts(data))
    # The benchmark collects before each row, and need not go through what all tests before have made.
    gc.freeze()
    found = {
        name: parts.ablation.time_without(switches, grid, folder, data, tmp_path / str(i), "fp32")
        for i, (name, switches) in enumerate(parts.ablation.OPTIMISATIONS.items())
    }
    gc.unfreeze()
    first = found["all on"]
    assert len(first.scores) == 12
    assert max(first.scores) - min(first.scores) > 1e-4
    for name, timed in found.items():
        assert timed.scores == pytest.approx(first.scores, abs=1e-5), name
    # The 12,000 rows, gradients and moments of the vocabulary, and nothing less.
    assert found["compact vocabulary"].peak_bytes - first.peak_bytes > 12_000 * 64 * 4 * 3
