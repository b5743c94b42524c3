"""Nodes that join and leave a run: each is reported once, and used only if nothing is wrong with it."""

from __future__ import annotations

from xlmr_sweep.cluster.nodes import NodeWatch
from xlmr_sweep.scheduling.resources import Node


def test_nodes_that_come_and_go_are_told_once() -> None:
    now, there = [0.0], [Node(1, 1, "a")]
    watch = NodeWatch(list(there), alive=lambda: list(there), clock=lambda: now[0])
    there.append(Node(1, 1, "b"))
    assert watch.changes() == ([], [])
    now[0] = 1.5
    assert watch.changes() == ([Node(1, 1, "b")], [])
    del there[0]
    now[0] = 3
    assert watch.changes() == ([], [Node(1, 1, "a")])
    assert watch.nodes == [Node(1, 1, "b")]
    now[0] = 5
    assert watch.changes() == ([], [])


def test_a_node_that_joins_comes_once_it_is_found_usable_or_is_refused_once() -> None:
    now, there = [0.0], [Node(1, 1, "a")]
    problems: dict[str, str | None] = {"b": None, "c": "--storage /runs: cannot be written"}
    watch = NodeWatch(list(there), lambda: list(there), lambda: now[0], lambda node: problems[node.node_id])
    there += [Node(1, 1, "b"), Node(1, 1, "c")]
    now[0] = 1.5
    assert watch.changes() == ([], [])
    assert watch.refused() == [(Node(1, 1, "c"), "--storage /runs: cannot be written")]
    problems["b"] = ""
    now[0] = 3
    assert watch.changes() == ([Node(1, 1, "b")], [])
    assert watch.refused() == []
    assert watch.nodes == [Node(1, 1, "a"), Node(1, 1, "b")]
    # One that never was used does not go either.
    del there[2]
    now[0] = 5
    assert watch.changes() == ([], [])
