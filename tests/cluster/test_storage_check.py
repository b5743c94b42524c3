"""A node that joins late is checked in the background: refused after some failed checks, and given up if it never answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.cluster.storage_check import CHECK_LIMIT_S, MAX_CHECKS, LateNodes
from xlmr_sweep.errors import StorageError
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage.files import Storage

NODE = Node(1, 1, "b")


class Checks:
    """Stands for the checks on a node: each gives the next of some answers, None if it never answers."""

    def __init__(self, answers: Sequence[str | None]) -> None:
        self.answers = list(answers)
        self.num_given_up = 0

    def start(self, node_id: str, storage: Storage, marker: str) -> Any:
        assert storage.read(marker) == b"driver", "the node looks for a file that the driver wrote"
        self.answer = self.answers.pop(0)
        return self

    def problem(self) -> str | None:
        return self.answer

    def give_up(self) -> str:
        self.num_given_up += 1
        return "has not answered"


class CannotDelete(Storage):
    """A storage that fails whenever something is deleted."""

    def delete(self, name: str) -> None:
        raise StorageError("No space left on device")


@pytest.mark.parametrize("storage", [Storage, CannotDelete])
def test_a_late_node_is_used_once_a_check_finds_nothing_wrong(tmp_path: Path, storage: type[Storage]) -> None:
    late = LateNodes(storage(tmp_path), start_check=Checks(["is late", ""]).start)
    assert [late.problem(NODE) for _ in range(2)] == [None, ""]


@pytest.mark.parametrize("storage", [Storage, CannotDelete])
def test_a_late_node_is_refused_after_some_failed_checks(tmp_path: Path, storage: type[Storage]) -> None:
    late = LateNodes(storage(tmp_path), start_check=Checks(["cannot be written"] * MAX_CHECKS).start)
    assert [late.problem(NODE) for _ in range(MAX_CHECKS)] == [None] * (MAX_CHECKS - 1) + ["cannot be written"]


def test_a_driver_that_cannot_write_asks_again(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    late = LateNodes(Storage(tmp_path / "runs"), start_check=Checks([""]).start)
    assert late.problem(NODE) is None
    (tmp_path / "runs").unlink()
    assert late.problem(NODE) == ""


def test_a_check_of_a_late_node_that_never_answers_is_given_up(tmp_path: Path) -> None:
    now, checks = [0.0], Checks([None] * MAX_CHECKS)
    late = LateNodes(Storage(tmp_path), clock=lambda: now[0], start_check=checks.start)
    answers = []
    for _ in range(MAX_CHECKS):
        answers.append(late.problem(NODE))
        now[0] += CHECK_LIMIT_S
        answers.append(late.problem(NODE))
    assert answers == [None] * (2 * MAX_CHECKS - 1) + ["has not answered"]
    assert checks.num_given_up == MAX_CHECKS


def test_a_node_that_cannot_write_or_does_not_see_the_storage_says_so(tmp_path: Path) -> None:
    from xlmr_sweep.cluster.storage_check import node_problem as check

    (tmp_path / "file").write_text("")
    assert "cannot be written on" in check(str(tmp_path / "file" / "x"), "tmp/seen")
    assert "does not hold what the driver wrote; use a folder or URI that all nodes share" in check(str(tmp_path), "tmp/seen")
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "tmp" / "seen").write_text("driver")
    assert check(str(tmp_path), "tmp/seen") == ""
