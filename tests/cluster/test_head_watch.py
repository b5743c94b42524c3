"""A head that is gone is noticed, whatever Ray says, and one that comes back in time ends nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from patience import wait_for

from xlmr_sweep.cluster import head_watch
from xlmr_sweep.cluster.head_watch import HeadWatch, answers


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_watch, "ASK_INTERVAL_S", 0.01)


def watch_of(ask: Callable[[str], bool], said: list[str], ended: list[str], return_s: float = 0.0) -> HeadWatch:
    return HeadWatch("10.0.0.1:6379", said.append, ended.append, return_s, ask)


def test_a_head_that_is_gone_ends_the_command_with_one_line() -> None:
    said: list[str] = []
    ended: list[str] = []
    answered = iter([True, False, False, True])
    with watch_of(lambda address: next(answered, False), said, ended).running():
        wait_for(lambda: ended)
    assert ended == ["the head of Ray at 10.0.0.1:6379 (gcs_server) is gone. What is done is kept; the same command goes on"]
    assert said == []


def test_a_head_that_comes_back_in_time_ends_nothing() -> None:
    said: list[str] = []
    ended: list[str] = []
    answered = iter([False] * 5)
    with watch_of(lambda address: next(answered, True), said, ended, return_s=1e9).running():
        wait_for(lambda: len(said) == 2)
    assert ended == []
    assert said[0].startswith(
        "Nobody answers at the head of the Ray cluster, 10.0.0.1:6379. This command ends if nobody answers for"
    )
    assert said[1] == "The head of the Ray cluster at 10.0.0.1:6379 answers again."


def test_a_head_that_does_not_come_back_ends_the_command() -> None:
    said: list[str] = []
    ended: list[str] = []
    with watch_of(lambda address: False, said, ended, return_s=0.1).running():
        wait_for(lambda: ended)
    assert len(said) == 1


def test_it_asks_the_kernel_of_the_machine_where_the_head_is() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert not answers(address)
        listening.listen()
        # Nobody accepts: as of a head that is busy.
        assert answers(address)
        assert answers(address)
    assert not answers(address)
