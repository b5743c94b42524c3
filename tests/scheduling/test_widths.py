"""Widths that are measured: 1/n of a GPU by memory with a margin and by work, kept in the storage; and the next larger width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.widths import Measured, keep_measured, next_larger, width_for, widths_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.learned import learn
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study

GIB = 2**30
GPUS = [Node(64, 8, "a")]
CPUS = [Node(8, 0, "a"), Node(16, 0, "b")]
TWO_NODES = [Node(8, 2, "a"), Node(8, 2, "b")]


def study_of(gpus: Any = "auto", **fields: Any) -> Study:
    model = {"name": "m", "hub": "none/m", "gpus": gpus, **fields}
    return Study.model_validate({"name": "s", "models": [model], "sizes": [2], "seeds": [0]})


def share(measured: Measured, nodes: list[Node] = GPUS, **fields: Any) -> Width:
    return width_for(measured, study_of(**fields).model("m"), nodes)


@pytest.mark.parametrize(
    ("peak_gib", "busy", "n"),
    [
        (4, None, 14),  # 80 GiB over 4 x 1.2 + 0.59
        (4, 0.3, 4),  # Four keep a GPU busy that one keeps busy for 30% of the time.
        (4, 0.95, 2),
        (4, 1.0, 1),
        (30, 0.1, 2),  # Memory bounds.
        (60, 0.1, 1),
        (90, 0.1, 1),  # Does not fit even once by the margin, but it ran.
        (0.1, 0.01, 16),
    ],
)
def test_n_is_what_fits_by_memory_and_what_keeps_a_gpu_busy(peak_gib: float, busy: float | None, n: int) -> None:
    nodes = [Node(256, 8, "a")]
    width = share(Measured(True, int(peak_gib * GIB), 80 * GIB, busy), nodes)
    assert width == Width(1, 1 / n)


def test_n_is_bounded_by_the_cpus_of_the_poorest_node() -> None:
    tiny = Measured(True, GIB, 80 * GIB, 0.05)
    assert share(tiny, [Node(64, 8, "a")]) == Width(1, 1 / 8)
    assert share(tiny, [Node(64, 8, "a"), Node(16, 8, "b")]) == Width(1, 1 / 2)
    assert share(tiny, [Node(64, 8, "a")], cpus=4) == Width(4, 1 / 2)


def test_on_a_machine_without_gpus_memory_and_cores_make_the_share_of_the_cpus() -> None:
    assert share(Measured(False, GIB, 64 * GIB, 0.97), CPUS) == Width(1, 0)
    assert share(Measured(False, GIB, 64 * GIB, 2.9), CPUS) == Width(3, 0)
    # Three fit into 16 GiB with the margin, so each takes a third of the smallest node's CPUs.
    assert share(Measured(False, 4 * GIB, 16 * GIB, 1.0), CPUS) == Width(8 / 3, 0)
    assert share(Measured(False, 40 * GIB, 16 * GIB, 1.0), CPUS) == Width(8, 0)


def test_a_model_is_measured_once_for_each_kind_of_device(tmp_path: Path) -> None:
    study, storage = study_of(), Storage(tmp_path)
    assert widths_of(study, storage, ["m"], GPUS) == ({"m": Width(1, 1)}, ["m"])
    assert widths_of(study, storage, ["m"], CPUS) == ({"m": Width(8, 0)}, ["m"]), "alone on the smallest node"
    keep_measured(storage, "m", Measured(True, 4 * GIB, 80 * GIB, 0.3))
    learn(storage, "m", other=1)
    assert widths_of(study, storage, ["m"], GPUS) == ({"m": Width(1, 1 / 4)}, [])
    assert widths_of(study, storage, ["m"], CPUS)[1] == ["m"]
    (tmp_path / "learned" / "m.json").write_text('{"measured": {"peak": 3}}')
    assert widths_of(study, storage, ["m"], GPUS)[1] == ["m"], "what cannot be read is measured again"
    declared = widths_of(study_of("1/3"), storage, ["m"], GPUS)
    assert declared == ({"m": Width(1, pytest.approx(1 / 3))}, [])


def test_a_model_that_a_whole_gpu_was_too_small_for_measures_no_fraction(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    learn(storage, "m", min_width=Width(1, 1, 4).as_dict())
    assert widths_of(study_of(), storage, ["m"], GPUS) == ({"m": Width(1, 1, 4)}, [])


def test_a_device_is_busy_while_a_trial_works_not_while_it_gets_ready() -> None:
    row = {"num_gpus": 1, "peak_memory_bytes": GIB, "device_memory_bytes": 80 * GIB, "device_busy": 0.3}
    ready_after_60_s = row | {"train_time_s": 50.0, "eval_time_s": 10.0, "total_time_s": 120.0}
    measured = [Measured.of_row(columns) for columns in (row, ready_after_60_s)]
    assert [found and found.busy for found in measured] == [0.3, pytest.approx(0.6)]
    # Cores that worked did so in getting ready too.
    on_cpus = Measured.of_row(ready_after_60_s | {"num_gpus": 0})
    assert on_cpus is not None
    assert on_cpus.busy == 0.3


@pytest.mark.parametrize("gpus", ["many", "0", -1, "2/3", 1.5, True, "1/0"])
def test_a_share_that_is_none_is_refused_in_words(gpus: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: s\nmodels: [{{name: m, hub: a/b, gpus: {gpus}}}]\nsizes: [2]\nseeds: [0]\n")
    with pytest.raises(StudyError, match=r"gpus|1/n") as caught:
        load_study(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "wider"),
    [
        (Width(1, 1 / 8), Width(1, 0.25)),
        (Width(1, 1 / 3), Width(1, 1)),
        (Width(1, 0.25), Width(1, 0.5)),
        (Width(1, 0.5), Width(1, 1)),
        (Width(1, 1), Width(1, 1, 2)),
        (Width(1, 1, 2), Width(1, 1, 4)),
        (Width(1, 1, 4), None),
        (Width(2, 0), Width(4, 0)),
        (Width(5, 0), Width(8, 0)),
        (Width(8, 0), None),
    ],
)
def test_the_next_larger_share(width: Width, wider: Width | None) -> None:
    assert next_larger(width, TWO_NODES) == wider
