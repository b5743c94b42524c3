"""A hub that does not answer costs a command seconds, and what the cache holds is still read."""

from __future__ import annotations

import time

import huggingface_hub
import pytest
from broken_hub import broken_hub

from xlmr_sweep.modeling import hub_reach
from xlmr_sweep.modeling.hub_reach import TRIES, hub_or_cache, hub_silence


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_reach, "PAUSE_S", 0.0)


@pytest.mark.parametrize("status", [200, 401, 404])
def test_a_hub_that_answers_anything_is_asked_once_and_used(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with broken_hub(monkeypatch, status) as hub, hub_or_cache(said.append):
        assert not huggingface_hub.is_offline_mode()
        assert len(hub.requests) == 1
    assert said == []


def test_a_hub_out_of_order_is_asked_twice_and_then_only_the_cache_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with broken_hub(monkeypatch, 503) as hub:
        with hub_or_cache(said.append):
            assert huggingface_hub.is_offline_mode()
            assert len(hub.requests) == TRIES
            with hub_or_cache(said.append):
                pass
            assert huggingface_hub.is_offline_mode()
        assert not huggingface_hub.is_offline_mode()
        (line,) = said
        assert line.endswith("does not answer (status 503); only what this machine's cache holds (HF_HOME) is read")


def test_a_hub_behind_a_firewall_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_reach, "HUB_TIMEOUT_S", 0.3)
    with broken_hub(monkeypatch, None) as hub:
        began = time.monotonic()
        assert "does not answer" in hub_silence()
        # The client's own limit is ten seconds a try.
        assert time.monotonic() - began < 10
        assert len(hub.requests) == TRIES


def test_a_client_that_was_told_to_ask_nobody_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with broken_hub(monkeypatch, 503) as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with hub_or_cache():
            assert hub.requests == []
        assert huggingface_hub.is_offline_mode()
