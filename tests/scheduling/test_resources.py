"""What trials and jobs take of a cluster, and a cluster that is too small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.free_resources import FreeResources
from xlmr_sweep.scheduling.resources import Node, Width, check_fits, num_fitting, trial_width
from xlmr_sweep.study.reading import load_study


def test_a_cluster_that_is_too_small_is_refused_with_what_is_missing() -> None:
    paper = load_study("paper")
    names = [model.name for model in paper.models]
    check_fits(paper, names, [Node(cpus=64, gpus=8)], instruct=names)
    with pytest.raises(StudyError, match=r"model xlmr-xxl: a fine-tuning trial needs 4 x \(1 CPUs and 1 GPUs\)"):
        check_fits(paper, names, [Node(cpus=64, gpus=2)])
    with pytest.raises(StudyError, match="expects 8 GPUs and the cluster has none"):
        check_fits(paper, names, [Node(cpus=64, gpus=0)])
    with pytest.raises(StudyError, match=r"model xlmr-xl: instruction tuning needs 8 x"):
        check_fits(paper, ["xlmr-base"], [Node(cpus=64, gpus=2)], instruct=["xlmr-xl"])
    with pytest.raises(StudyError, match="the cluster has 0.5 CPUs and 8 GPUs on 1 nodes"):
        check_fits(paper, ["xlmr-base"], [Node(cpus=0.5, gpus=8)])


def test_widths_follow_the_declared_share() -> None:
    quarter, gang = (load_study("paper").models[0].model_copy(update={"gpus": gpus}) for gpus in (0.25, 8))
    width = trial_width(quarter, has_gpus=True)
    assert width == Width(1, 0.25, 1)
    assert trial_width(gang, has_gpus=True).bundles() == [{"CPU": 1, "GPU": 1}] * 8
    assert num_fitting(width, [Node(64, 8)]) == 32
    assert num_fitting(width, [Node(8, 8)]) == 8
    assert trial_width(gang, has_gpus=False) == Width(1, 0, 1)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8)), min_size=1, max_size=4),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([0, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 1, 2]),
)
def test_as_many_bundles_fit_as_can_be_allocated_one_after_the_other(
    sizes: list[tuple[int, int]], cpus: float, gpus: float
) -> None:
    nodes = [Node(node_cpus, node_gpus, str(i)) for i, (node_cpus, node_gpus) in enumerate(sizes)]
    width, free, number = Width(cpus, gpus), FreeResources(nodes), 0
    while free.allocate(width) is not None:
        number += 1
    assert num_fitting(width, nodes) == number
