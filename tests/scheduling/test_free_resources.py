"""The books of a cluster's free CPUs and GPUs: never more than there is, down to the single GPU."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_sweep.scheduling.free_resources import Allocation, FreeResources
from xlmr_sweep.scheduling.resources import Node, Width


def test_a_gang_is_put_on_one_node_where_one_can_hold_it() -> None:
    free = FreeResources([Node(64, 4, "a"), Node(64, 4, "b")])
    assert free.allocate(Width(1, 1, 2)) is not None
    # Two are free on one node and four on the other, but a gang of four waits for neither: it takes the empty node.
    whole = free.allocate(Width(1, 1, 4))
    assert whole is not None
    assert len(set(whole.node_ids)) == 1
    assert free.allocate(Width(1, 1, 4)) is None


def test_a_gang_wider_than_every_node_is_spread() -> None:
    free = FreeResources([Node(64, 4, "a"), Node(64, 8, "b")])
    spread = free.allocate(Width(1, 1, 10))
    assert spread is not None
    assert Counter(spread.node_ids) == {"b": 8, "a": 2}
    free.release(spread)
    assert free.allocate(Width(1, 1, 12)) is not None
    assert not free.could_ever_hold(Width(1, 1, 13))


def test_halves_of_two_gpus_are_no_whole_one() -> None:
    free = FreeResources([Node(64, 2, "a")])
    first, second = free.allocate(Width(1, 0.5)), free.allocate(Width(1, 0.25))
    assert first is not None
    assert second is not None
    whole = free.allocate(Width(1, 1))
    assert whole is not None, "both shares lie on one GPU"
    assert free.allocate(Width(1, 1)) is None
    free.release(first)
    assert free.allocate(Width(1, 1)) is None, "a quarter of it is still taken"
    free.release(second)
    assert free.allocate(Width(1, 1)) is not None


def test_a_shared_item_goes_to_the_fullest_node_so_that_a_gang_finds_an_empty_one() -> None:
    free = FreeResources([Node(8, 2, "a"), Node(8, 2, "b")])
    nodes = [free.allocate(Width(1, 0.5)) for _ in range(3)]
    assert {allocation.node_ids for allocation in nodes if allocation} == {("a",)}
    assert free.allocate(Width(1, 1, 2)) is not None


def test_a_node_to_keep_away_from_is_used_where_no_other_can_hold_it() -> None:
    free = FreeResources([Node(8, 2, "a"), Node(8, 1, "b")])
    avoiding = free.allocate(Width(1, 1), {"a"})
    assert avoiding is not None
    assert avoiding.node_ids == ("b",)
    assert free.allocate(Width(1, 1), {"a"}) is None, "it waits for b"
    only = free.allocate(Width(1, 1, 2), {"a"})
    assert only is not None
    assert set(only.node_ids) == {"a"}


def test_a_node_that_died_takes_its_room_along() -> None:
    free = FreeResources([Node(8, 2, "a"), Node(8, 2, "b")])
    allocation = free.allocate(Width(1, 1, 2))
    assert allocation is not None
    free.remove(allocation.node_ids[0])
    free.release(allocation)
    assert free.allocate(Width(1, 1, 2)) is not None
    assert free.allocate(Width(1, 1)) is None


def test_what_could_ever_be_held_follows_the_nodes_also_in_a_copy() -> None:
    free, gang = FreeResources([Node(8, 1, "a")]), Width(1, 1, 4)
    assert not free.could_ever_hold(gang)
    free.add(Node(8, 4, "b"))
    other = free.copy()
    assert free.could_ever_hold(gang)
    assert other.could_ever_hold(gang)
    other.remove("b")
    assert not other.could_ever_hold(gang)
    assert other.allocate(gang) is None
    assert free.could_ever_hold(gang)
    assert free.allocate(gang) is not None


def test_two_nodes_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="two nodes"):
        FreeResources([Node(1, 0, "a"), Node(1, 0, "a")])


WIDTHS = st.sampled_from(
    [Width(1, g, n) for g, n in [(0.125, 1), (0.25, 1), (1 / 3, 1), (0.5, 1), (1, 1), (1, 2), (1, 4), (0, 1)]]
)
NODES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 8)), min_size=1, max_size=4)


@settings(max_examples=60)
@given(NODES, st.lists(st.tuples(WIDTHS, st.integers(0, 5)), max_size=60))
def test_no_gpu_and_no_cpu_is_ever_given_twice(sizes: list[tuple[int, int]], steps: list[tuple[Width, int]]) -> None:
    nodes = [Node(cpus, gpus, str(i)) for i, (cpus, gpus) in enumerate(sizes)]
    free = FreeResources(nodes)
    held: list[Allocation] = []
    for width, give_back in steps:
        allocation = free.allocate(width)
        if allocation is not None:
            assert len(allocation.bundles) == width.num_bundles
            held.append(allocation)
        elif not held:
            assert not free.could_ever_hold(width), "an empty cluster gives what it could ever hold"
        for _ in range(min(give_back, len(held)) if give_back > 3 else 0):
            free.release(held.pop(0))
        cpus: Counter[str] = Counter()
        gpus: Counter[tuple[str, int]] = Counter()
        for node, taken, shares in (bundle for allocation in held for bundle in allocation.bundles):
            cpus[node] += taken  # type: ignore[assignment]
            for index, share in shares:
                gpus[node, index] += share  # type: ignore[assignment]
        assert all(cpus[node.node_id] <= node.cpus + 1e-6 for node in nodes)
        assert all(share <= 1 + 1e-6 for share in gpus.values())
