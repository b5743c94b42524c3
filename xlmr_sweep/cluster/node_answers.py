"""Asks every node of a cluster what it says of itself, in a small task on each. All at once.

In: a connected Ray, a storage. Out: a `NodeAnswer` a node.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xlmr_sweep.cluster.advice import with_advice
from xlmr_sweep.cluster.node_facts import NodeFacts, NodeQuestion, read_facts
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage.artifacts import TMP, temporary_file
from xlmr_sweep.storage.files import Storage

ANSWER_LIMIT_S = 60.0
"""A node that has not answered by then counts as one that does not. On a mount that hangs it never would."""


@dataclass(frozen=True)
class NodeAnswer:
    """What is known of one node."""

    name: str
    """Its host, with its address where several nodes have the same."""
    node: Node
    object_store: int
    """Bytes of Ray's object store there; 0 without Ray."""
    facts: NodeFacts | None
    problem: str = ""
    """Why there are no facts."""
    skew_s: float = 0.0
    """How far its clock is ahead of this machine's, at least."""


class NodeQuestions:
    """The questions to all nodes, under way. Left as a context it removes what was written, also if nobody waited for answers.

    Args:
        question: what each is asked, but for the storage.
        storage: the study's folder; None to leave it out.
    """

    def __init__(self, question: NodeQuestion, storage: Storage | None) -> None:
        self._storage, self._absent = storage, storage.absent_above() if storage is not None else ()
        self._folder = temporary_file(f"check-{uuid.uuid4().hex[:8]}")
        if storage is not None:
            question = replace(question, storage=storage.uri, folder=self._folder)
            # A storage that the driver cannot write is said by the node on which the driver runs.
            with suppress(OSError, StudyError):
                storage.write(f"{self._folder}/driver", b"driver")
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        self._asked_at = time.time()
        self._answers = [_ask(node["NodeID"], question) for node in self._nodes]

    def answers(self, limit_s: float = ANSWER_LIMIT_S) -> list[NodeAnswer]:
        """Waits for the nodes and returns their answers, in Ray's order of nodes."""
        deadline = time.monotonic() + limit_s
        found = [
            self._answer(node, answer, max(0.0, deadline - time.monotonic()))
            for node, answer in zip(self._nodes, self._answers, strict=True)
        ]
        return _named_apart(found, [str(node["NodeManagerAddress"]) for node in self._nodes])

    def __enter__(self) -> NodeQuestions:
        return self

    def __exit__(self, *_: object) -> None:
        if self._storage is None:
            return
        # A node that still writes would write again what is removed here.
        with suppress(ray.exceptions.RayError):
            for answer in self._answers:
                if not ray.wait([answer], timeout=0)[0]:
                    ray.cancel(answer, force=True)
        with suppress(OSError, StudyError):
            self._storage.delete(self._folder)
            self._storage.remove_empty(TMP, "", above=self._absent)

    def _answer(self, node: dict[str, Any], answer: Any, timeout_s: float) -> NodeAnswer:
        has = node["Resources"]
        known = NodeAnswer(
            str(node["NodeManagerHostname"]),
            Node(has.get("CPU", 0.0), has.get("GPU", 0.0), node["NodeID"]),
            int(has.get("object_store_memory", 0)),
            None,
        )
        try:
            facts: NodeFacts = ray.get(answer, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(answer, force=True)
            return replace(known, problem=f"has not answered for {ANSWER_LIMIT_S:g} s; does a mount hang there?")
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return replace(known, problem=with_advice(f"cannot be asked: {lines[-1]}"))
        if self._storage is not None and not facts.storage_problem:
            facts = replace(facts, storage_problem=self._unseen(node["NodeID"]))
        return replace(known, facts=facts, skew_s=skew(facts.time_s, self._asked_at, time.time()))

    def _unseen(self, node_id: str) -> str:
        """Says if the driver does not see what a node wrote and renamed."""
        assert self._storage is not None
        try:
            if self._storage.read(f"{self._folder}/{node_id}") == node_id.encode():
                return ""
        except (OSError, StudyError):
            pass
        return "what it writes and renames is not seen by the driver; use a folder or URI that all nodes share"


def skew(node_s: float, asked_s: float, answered_s: float) -> float:
    """Returns how far a node's clock is ahead, at least: it was read after it was asked and before the answer came."""
    if node_s < asked_s:
        return node_s - asked_s
    return max(0.0, node_s - answered_s)


def _ask(node_id: str, question: NodeQuestion) -> Any:
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return _read_facts.options(scheduling_strategy=on_node, name="check").remote(replace(question, node_id=node_id))


def _read_session_facts(question: NodeQuestion) -> NodeFacts:
    """Returns the facts of this node. Ray on the node knows the session folder, which serves as scratch."""
    node: Any = ray._private.worker._global_node
    return read_facts(replace(question, scratch=str(node.get_session_dir_path())))


_read_facts = ray.remote(num_cpus=0, max_retries=0)(_read_session_facts)


def _named_apart(found: Sequence[NodeAnswer], addresses: Sequence[str]) -> list[NodeAnswer]:
    """Gives nodes of the same host different names."""
    names = [answer.name for answer in found]
    if len(set(names)) == len(names):
        return list(found)
    several = len(set(addresses)) == len(addresses)
    return [
        replace(answer, name=f"{answer.name} ({address if several else answer.node.node_id[:6]})")
        for answer, address in zip(found, addresses, strict=True)
    ]
