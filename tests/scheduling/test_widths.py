"""Widths that are measured: 1/n of a GPU, bounded by memory with a margin, kept in the storage; and the next larger width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.shares import ShareSearch
from xlmr_sweep.scheduling.widths import (
    Measured,
    keep_measured,
    keep_share,
    most_on_gpu,
    next_larger,
    share_in_words,
    width_for,
    widths_of,
)
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
    return width_for(measured, study_of(**fields).model("m"), nodes, 16)


@pytest.mark.parametrize(
    ("peak_gib", "n"),
    [
        (4, 14),  # 80 GiB over 4 x 1.2 + 0.59
        (30, 2),
        (60, 1),
        (90, 1),  # Does not fit even once by the margin, but it ran.
        (0.1, 16),
    ],
)
def test_as_many_trials_share_a_gpu_as_fit_and_one_until_more_were_found_to_pay(peak_gib: float, n: int) -> None:
    nodes = [Node(256, 8, "a")]
    model = study_of().model("m")
    for busy in (None, 0.1, 1.0):
        measured = Measured(True, int(peak_gib * GIB), 80 * GIB, busy)
        assert most_on_gpu(measured, model, nodes) == n
        assert width_for(measured, model, nodes) == Width(1, 1)
        assert width_for(measured, model, nodes, 2) == Width(1, 1 / min(n, 2))


def test_n_is_bounded_by_the_cpus_of_the_poorest_node() -> None:
    tiny = Measured(True, GIB, 80 * GIB, None)
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
    assert widths_of(study, storage, ["m"], GPUS) == ({"m": Width(1, 1)}, []), "whether more pay is not known"
    keep_share(storage, "m", ShareSearch(4, is_over=True, rates={1: 900.0, 2: 1000.0, 4: 1400.0}))
    assert widths_of(study, storage, ["m"], GPUS) == ({"m": Width(1, 1 / 4)}, [])
    kept = json.loads((tmp_path / "learned" / "m.json").read_text())
    assert kept["share"]["trials_an_hour"] == {"1": 900.0, "2": 1000.0, "4": 1400.0}
    assert kept["other"] == 1
    assert widths_of(study, storage, ["m"], CPUS)[1] == ["m"]
    (tmp_path / "learned" / "m.json").write_text('{"measured": {"peak": 3}}')
    assert widths_of(study, storage, ["m"], GPUS)[1] == ["m"], "what cannot be read is measured again"
    declared = widths_of(study_of("1/3"), storage, ["m"], GPUS)
    assert declared == ({"m": Width(1, pytest.approx(1 / 3))}, [])


def test_a_model_that_a_whole_gpu_was_too_small_for_measures_no_fraction(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    learn(storage, "m", min_width=Width(1, 1, 4).as_dict())
    assert widths_of(study_of(), storage, ["m"], GPUS) == ({"m": Width(1, 1, 4)}, [])


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


def test_a_width_in_words_counts_one_as_one() -> None:
    widths = [Width(1, 0), Width(2, 0), Width(1, 0.25), Width(1, 1), Width(1, 1, 4)]
    assert [share_in_words(width) for width in widths] == ["1 CPU", "2 CPUs", "1/4 of a GPU", "1 GPU", "4 GPUs"]
