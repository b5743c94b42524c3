"""What `--check` says of nodes, from what each says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from xlmr_sweep.cluster.node_answers import NodeAnswer
from xlmr_sweep.cluster.node_facts import NodeFacts
from xlmr_sweep.commands.findings import Finding
from xlmr_sweep.commands.node_checks import NodeNeeds, node_findings
from xlmr_sweep.scheduling.resources import Node

GB = 10**9
FACTS = NodeFacts(
    host="a",
    versions={"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "ray": "2.60.0"},
    code="c0de",
    torch_cuda="13.0",
    driver="580.1",
    driver_cuda="13.0",
    cuda_problem="",
    gpus=(("H100", 80 * GB), ("H100", 80 * GB)),
    cpus=8,
    memory=64 * GB,
    shared_memory=32 * GB,
    open_files=65536,
    scratch="/tmp/ray",
    scratch_free=100 * GB,
    scratch_used=0.5,
    cache="/home/u/.cache",
    cache_problem="",
    cache_free=100 * GB,
    storage_problem="",
    storage_free=500 * GB,
    missing=(),
)
NEEDS = NodeNeeds(
    storage=100 * GB, cache=10 * GB, weights=20 * GB, trials={"xl": 60 * GB, "base": 2 * GB}, on_gpu=True, models=True
)


def judged(needs: NodeNeeds = NEEDS, node: dict[str, Any] | None = None, **facts: Any) -> dict[str, Finding]:
    """Returns findings by name, of a good node `a` and of a node `b` that differs from it."""
    good = NodeAnswer("a", Node(8, 2, "1"), 20 * GB, FACTS)
    other = replace(replace(good, name="b", facts=replace(FACTS, **facts)), **(node or {}))
    return {finding.what: finding for finding in node_findings([good, other], needs)}


def test_two_good_nodes_have_nothing_wrong() -> None:
    found = judged()
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["nodes"].said == "2, with 16 CPUs and 4 GPUs"
    assert found["memory"].said == "64 GB, 2 x H100 of 80 GB a node"
    assert found["CUDA and driver"].said == "driver 580.1, CUDA 13.0, torch for 13.0"
    assert "from each node; 500 GB free, the plan needs about 100 GB" in found["storage"].said


@pytest.mark.parametrize(
    ("what", "state", "said", "facts"),
    [
        ("Python and packages", "wrong", "ray: 2.60.0 on a, 2.59.0 on b", {"versions": FACTS.versions | {"ray": "2.59.0"}}),
        ("this project", "wrong", "c0de on a, 0ther on b", {"code": "0ther"}),
        ("CUDA and driver", "wrong", "b: Ray counts 2 GPUs and no NVIDIA driver answers", {"driver": "", "gpus": ()}),
        ("CUDA and driver", "wrong", "torch 2.13.0 is a build without CUDA", {"torch_cuda": ""}),
        ("CUDA and driver", "wrong", "driver 535 knows CUDA 12.2 and torch wants 13.0", {"driver": "535", "driver_cuda": "12.2"}),
        ("CUDA and driver", "wrong", "CUDA does not start (error 803)", {"cuda_problem": "error 803"}),
        ("CUDA and driver", "wrong", "Ray counts 2 GPUs and the driver has 1", {"gpus": FACTS.gpus[:1]}),
        ("memory", "wrong", "b: a trial of xl (60 GB) does not fit the GPU", {"gpus": (("A100", 40 * GB),) * 2}),
        ("storage", "wrong", "b: cannot be written", {"storage_problem": "cannot be written"}),
        ("storage", "wrong", "b: 99 GB free, the plan needs about 100 GB", {"storage_free": 99 * GB}),
        ("models on nodes", "wrong", "b: there is no /models/xl;", {"missing": ("/models/xl",)}),
        ("models on nodes", "wrong", "b: x/y is not in the cache", {"unreachable": ("x/y is not in the cache",)}),
        ("scratch", "wrong", "b: /tmp/ray is 96% full", {"scratch_used": 0.96}),
        ("cache", "wrong", "b: /home/u/.cache cannot be written (read-only)", {"cache_problem": "read-only"}),
        ("cache", "wrong", "b: 1 GB free in /home/u/.cache, copies of weights need 10 GB", {"cache_free": GB}),
        ("open files", "note", "b: a process may open 1024 files", {"open_files": 1024}),
        ("open files", "wrong", "b: a process may open 100 files", {"open_files": 100}),
        ("shared memory", "note", "b: 64 MB in /dev/shm, and Ray's objects want 20 GB", {"shared_memory": 64 * 10**6}),
    ],
)
def test_what_is_wrong_on_one_node_is_named_with_it(what: str, state: str, said: str, facts: dict[str, Any]) -> None:
    found = judged(**facts)
    assert said in found[what].said
    assert found[what].state == state
    assert {name for name, finding in found.items() if finding.state != "ok"} == {what}


@pytest.mark.parametrize(("skew_s", "said"), [(-12.3, "b: its clock is 12 s behind"), (6.0, "b: its clock is 6 s ahead")])
def test_a_clock_that_is_off_is_named(skew_s: float, said: str) -> None:
    assert said in judged(node={"skew_s": skew_s})["clocks"].said
    assert judged(node={"skew_s": 4.0})["clocks"].state == "ok"


def test_a_node_that_does_not_answer_is_named_and_the_others_are_judged() -> None:
    found = judged(node={"facts": None, "problem": "has not answered for 60 s"})
    assert found["nodes"].line == "wrong  nodes: b: has not answered for 60 s"
    assert found["storage"].state == "ok"


def test_a_node_that_is_too_small_to_pin_the_starting_weights_is_noted() -> None:
    # Two GPUs of 80 GB hold one process each; half of 64 GB are 32.
    fits = judged(replace(NEEDS, pinned={"xl": 16 * GB}))["pinned memory"]
    assert (fits.state, fits.said) == ("ok", "room for the starting weights of each process")
    small = judged(replace(NEEDS, pinned={"xl": 16 * GB}), memory=63 * GB)["pinned memory"]
    assert small.state == "note"
    assert small.said.startswith("b: 63 GB are too little to pin the starting weights of xl (16 GB a process); ")
    assert "pinned memory" not in judged()


def test_what_is_wrong_everywhere_is_said_once() -> None:
    bad = replace(FACTS, scratch_free=0)
    answers = [NodeAnswer(name, Node(8, 2, name), 0, bad) for name in "ab"]
    (scratch,) = [finding for finding in node_findings(answers, NEEDS) if finding.what == "scratch"]
    assert scratch.said.startswith("every node: /tmp/ray is 50% full, 0 B free; ")


def test_on_cpus_a_trial_is_held_against_the_machine() -> None:
    answers = [NodeAnswer("a", Node(8, 0), 0, replace(FACTS, memory=30 * GB))]
    (memory,) = [finding for finding in node_findings(answers, replace(NEEDS, on_gpu=False)) if finding.what == "memory"]
    assert "a trial of xl (60 GB) does not fit the machine, which has room for 30 GB" in memory.said
