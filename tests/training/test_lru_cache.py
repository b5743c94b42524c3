"""The cache by bytes: what was used last stays, and the last one always does."""

from __future__ import annotations

from collections.abc import Callable

from xlmr_sweep.training.lru_cache import LruCache


def test_the_least_recently_used_go_first() -> None:
    cache: LruCache[str] = LruCache(max_bytes=10)
    made: list[str] = []

    def make(name: str) -> Callable[[], str]:
        def call() -> str:
            made.append(name)
            return name

        return call

    for name in ("a", "b", "a", "c", "a", "b"):
        assert cache.get(name, make(name), lambda _: 4) == name
    assert made == ["a", "b", "c", "b"], "b was used longest ago when c came"


def test_one_that_is_too_large_stays_until_the_next_is_asked_for() -> None:
    cache: LruCache[int] = LruCache(max_bytes=1)
    made: list[int] = []

    def ask(name: int) -> int:
        def make() -> int:
            made.append(name)
            return name

        return cache.get(name, make, lambda _: 100)

    assert [ask(name) for name in (1, 1, 2, 1)] == [1, 1, 2, 1]
    assert made == [1, 2, 1]
