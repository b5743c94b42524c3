"""The Integral Performance Ratio against hand-worked numbers, the paper's own table, and properties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.ipr import integral_ratio, ipr_per_seed, ipr_table
from analysis.schema import TableError

SIZES = (2, 4, 8, 16, 32, 64, 128)
scores = st.floats(0.05, 1.0)
curve = st.lists(scores, min_size=len(SIZES), max_size=len(SIZES))


def ratio(first: list[float], second: list[float], sizes: tuple[int, ...] = SIZES, rule: str = "trapezoid") -> float:
    pair = (np.array([values], dtype=float) for values in (first, second))
    return float(integral_ratio(*pair, np.array(sizes, dtype=float), rule)[0])  # type: ignore[arg-type]


def test_hand_worked_trapezoid_over_training_size() -> None:
    # f: (0.5 + 0.7) / 2 * 2 + (0.7 + 0.9) / 2 * 4 = 4.4; g: (0.5 + 0.5) / 2 * 2 + (0.5 + 0.6) / 2 * 4 = 3.2
    assert ratio([0.5, 0.7, 0.9], [0.5, 0.5, 0.6], (2, 4, 8)) == pytest.approx(4.4 / 3.2 - 1)


def test_hand_worked_log_scale(table_of: Callable[..., pd.DataFrame]) -> None:
    # On log2 the sizes 2, 4, 8 are 1, 2, 3: f = 0.6 + 0.8 = 1.4, g = 0.5 + 0.55 = 1.05
    table = table_of(
        {
            ("m", "instructed", "t"): {2: [0.5], 4: [0.7], 8: [0.9]},
            ("m", "prompted", "t"): {2: [0.5], 4: [0.5], 8: [0.6]},
        }
    )
    found = ipr_per_seed(table, x_scale="log")
    assert found["ipr"].tolist() == pytest.approx([100 * (1.4 / 1.05 - 1)])


def test_simpson_is_exact_for_parabolas() -> None:
    sizes = (1, 2, 3, 5, 7)
    parabola = [0.2 + 0.01 * x * x for x in sizes]
    # Integral of 0.2 + 0.01 x^2 from 1 to 7 is 1.2 + 0.01 * (343 - 1) / 3; of 0.5 it is 3.
    expected = (1.2 + 3.42 / 3) / 3 - 1
    assert ratio(parabola, [0.5] * 5, sizes, "simpson") == pytest.approx(expected, rel=1e-12)
    assert ratio(parabola, [0.5] * 5, sizes) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "x_scale", "defined"),
    [((2, 4, 8), "linear", True), ((8, 32, 128), "linear", False), ((2, 8, 16), "linear", True), ((8, 32, 128), "log", True),
     ((2, 4, 32), "log", False), ((8, 32), "linear", True)],
)  # fmt: skip
def test_simpson_gives_no_value_where_it_counts_a_size_negatively(
    table_of: Callable[..., pd.DataFrame], sizes: tuple[int, ...], x_scale: str, defined: bool
) -> None:
    first, second = ({size: [score] for size in sizes} for score in (0.6, 0.5))
    table = table_of({("m", "instructed", "t"): first, ("m", "prompted", "t"): second})
    found = ipr_per_seed(table, "simpson", x_scale, ["instructed/prompted"])  # type: ignore[arg-type]
    assert found["used"].tolist() == [defined]
    assert found["ipr"].tolist() == pytest.approx([20.0 if defined else np.nan], nan_ok=True)
    # Over 8, 32 and 128 it would: the integral weighs size 8 with -40, so a better start would make the curve worse.
    better = table_of({("m", "instructed", "t"): {**first, sizes[0]: [0.9]}, ("m", "prompted", "t"): first})
    assert not (ipr_per_seed(better, "simpson", x_scale)["ipr"] < -1e-9).any()  # type: ignore[arg-type]


@given(curve)
def test_a_curve_over_itself_is_zero(f: list[float]) -> None:
    assert ratio(f, f) == 0
    assert ratio(f, f, rule="simpson") == 0


@given(curve, curve, st.floats(0.01, 1.0))
def test_scaling_both_curves_changes_nothing(f: list[float], g: list[float], scale: float) -> None:
    assert ratio([scale * y for y in f], [scale * y for y in g]) == pytest.approx(ratio(f, g), rel=1e-9, abs=1e-12)


@given(curve, curve)
def test_swapping_the_curves_inverts_the_ratio(f: list[float], g: list[float]) -> None:
    assert ratio(g, f) == pytest.approx(1 / (1 + ratio(f, g)) - 1, rel=1e-9, abs=1e-12)


@settings(max_examples=6)
@given(st.randoms(use_true_random=False))
def test_order_of_rows_is_irrelevant(shuffler: object) -> None:
    rng = np.random.default_rng(7)
    rows = [
        ("m", p, "t", size, seed, rng.uniform(0.3, 0.9)) for p in ("prompted", "instructed") for size in SIZES for seed in (0, 1)
    ]
    columns = ["model", "paradigm", "task", "train_size", "seed", "score"]
    expected = ipr_table(ipr_per_seed(pd.DataFrame(rows, columns=columns)))
    shuffler.shuffle(rows)  # type: ignore[attr-defined]
    found = ipr_table(ipr_per_seed(pd.DataFrame(rows, columns=columns)))
    pd.testing.assert_frame_equal(found, expected)


def two_seeds(missing: dict[tuple[str, int], tuple[int, ...]]) -> pd.DataFrame:
    """f = 0.6 and g = 0.5 at sizes 2, 4, 8, 16 for three seeds, without the given (paradigm, seed): sizes."""
    rows = [
        ("m", paradigm, "t", size, seed, score + size / 1000)
        for paradigm, score in (("instructed", 0.6), ("prompted", 0.5))
        for seed in range(3)
        for size in (2, 4, 8, 16)
        if size not in missing.get((paradigm, seed), ())
    ]
    return pd.DataFrame(rows, columns=["model", "paradigm", "task", "train_size", "seed", "score"])


def cell(table: pd.DataFrame) -> pd.Series:
    summary = ipr_table(ipr_per_seed(table, comparisons=["instructed/prompted"]))
    return summary[summary["task"] == "t"].iloc[0]


def test_a_missing_end_shrinks_the_common_range() -> None:
    whole = cell(two_seeds({}))
    assert (whole["size_low"], whole["size_high"], whole["num_seeds"]) == (2, 16, 3)
    short = cell(two_seeds({("instructed", seed): (16,) for seed in range(3)}))
    assert (short["size_low"], short["size_high"], short["num_seeds"], short["num_bridged"]) == (2, 8, 3, 0)
    # 2 to 8: f = 0.603 * 2 + 0.606 * 4 = 3.63, g = 0.503 * 2 + 0.506 * 4 = 3.03
    assert short["mean"] == pytest.approx(100 * (3.63 / 3.03 - 1))


def test_an_interior_gap_is_bridged_and_flagged() -> None:
    gap = cell(two_seeds({("prompted", 1): (4,)}))
    assert (gap["num_seeds"], gap["num_bridged"], gap["num_left_out"]) == (3, 1, 0)
    per_seed = ipr_per_seed(two_seeds({("prompted", 1): (4,)}), comparisons=["instructed/prompted"])
    # Seed 1 lacks size 4 on one side, so both curves run straight from 2 to 8; here they are straight anyway.
    assert per_seed["num_sizes"].tolist() == [4, 3, 4]
    assert per_seed["ipr"].nunique() == 1 or np.ptp(per_seed["ipr"]) < 1e-9


def test_a_seed_with_another_range_than_its_cell_is_left_out_and_counted() -> None:
    odd = cell(two_seeds({("prompted", 2): (16,)}))
    assert (odd["num_seeds"], odd["num_left_out"], odd["size_high"]) == (2, 1, 16)


def test_the_range_of_most_seeds_is_the_cells() -> None:
    odd = cell(two_seeds({("prompted", 1): (16,), ("prompted", 2): (16,)}))
    assert (odd["num_seeds"], odd["num_left_out"], odd["size_high"]) == (2, 1, 8)


def test_seeds_with_one_common_size_have_no_say_in_the_cells_range() -> None:
    odd = cell(two_seeds({("prompted", 1): (4, 8, 16), ("prompted", 2): (4, 8, 16)}))
    assert (odd["num_seeds"], odd["num_left_out"], odd["size_low"], odd["size_high"]) == (1, 2, 2, 16)


def test_on_a_tie_the_wider_range_is_the_cells() -> None:
    at_the_start = two_seeds({("prompted", 2): (2,)})
    start = cell(at_the_start[at_the_start["seed"] != 0])
    assert (start["num_seeds"], start["num_left_out"], start["size_low"]) == (1, 1, 2)
    table = two_seeds({("prompted", 2): (16,)})
    table = table[table["seed"] != 0]
    assert (cell(table)["num_seeds"], cell(table)["num_left_out"], cell(table)["size_high"]) == (1, 1, 16)


def test_a_seed_with_one_common_size_is_left_out() -> None:
    assert cell(two_seeds({("prompted", 0): (2, 4, 8)}))["num_left_out"] == 1


def test_missing_cells_stay_missing_and_are_counted() -> None:
    table = two_seeds({})
    planned = pd.concat([table, table.assign(task="u")])
    summary = ipr_table(ipr_per_seed(table[table["seed"] < 2]), planned).set_index(["comparison", "task"])
    there, missing = (summary.loc[("instructed/prompted", task)] for task in ("t", "u"))
    assert (there["num_seeds"], there["num_planned"]) == (2, 3)
    assert (missing["num_seeds"], missing["num_planned"]) == (0, 3)
    assert np.isnan(missing["mean"])
    average = summary.loc[("instructed/prompted", "average")]
    assert (average["num_seeds"], average["num_planned"]) == (2, 6)
    assert average["mean"] == pytest.approx(there["mean"])


def test_a_denominator_of_zero_gives_no_value() -> None:
    table = two_seeds({})
    table.loc[(table["paradigm"] == "prompted") & (table["seed"] == 0), "score"] = 0.0
    assert (cell(table)["num_seeds"], cell(table)["num_left_out"]) == (2, 1)


def test_the_log_scale_refuses_training_size_zero() -> None:
    table = two_seeds({})
    table.loc[table["train_size"] == 2, "train_size"] = 0
    with pytest.raises(TableError, match="training size 0"):
        ipr_per_seed(table, x_scale="log")


# Paper, Table 2: mean and standard deviation of five tasks, and the average.
TABLE_2 = {
    "base": ([(3.0, 1.3), (1.5, 2.0), (-0.9, 7.5), (4.0, 2.8), (-0.9, 1.1)], (1.3, 3.8)),
    "large": ([(7.3, 2.6), (0.4, 7.4), (10.6, 4.3), (10.3, 1.8), (7.6, 4.9)], (7.3, 5.5)),
    "xl": ([(8.3, 2.1), (-2.5, 2.6), (8.3, 5.1), (12.3, 3.0), (5.9, 2.3)], (6.5, 5.8)),
    "xxl": ([(9.4, 1.1), (-0.2, 4.0), (11.6, 4.7), (8.4, 1.0), (20.0, 2.9)], (9.9, 7.2)),
}


@pytest.mark.parametrize("model", TABLE_2)
def test_average_row_of_table_2_follows_from_its_cells(model: str) -> None:
    cells, (mean, std) = TABLE_2[model]
    rows = []
    for task, (m, s) in zip(("boolq", "cb", "copa", "rte", "wic"), cells, strict=True):
        for seed, value in enumerate((m - s, m, m + s)):
            for size in (2, 128):
                rows.append((model, "prompted", task, size, seed, 0.5))
                rows.append((model, "instructed", task, size, seed, 0.5 * (1 + value / 100)))
    table = pd.DataFrame(rows, columns=["model", "paradigm", "task", "train_size", "seed", "score"])
    summary = ipr_table(ipr_per_seed(table))
    average = summary[summary["task"] == "average"].iloc[0]
    assert average["num_seeds"] == 15
    assert round(average["std"], 1) == std
    # The paper's averages are of unrounded cells, so the last digit may differ by one.
    assert average["mean"] == pytest.approx(mean, abs=0.1)
    boolq = summary[summary["task"] == "boolq"].iloc[0]
    assert (round(boolq["mean"], 1), round(boolq["std"], 1)) == cells[0]
