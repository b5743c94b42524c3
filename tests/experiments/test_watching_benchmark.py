"""What `benchmark.py watching` concludes from what it measured."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = str(Path(__file__).resolve().parents[2] / "experiments")


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from benchmarks import watching

    return watching


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ({"nodes": 4, "check_s": 29.9, "load": 50.0}, True),
        ({"nodes": 4, "check_s": 30.1}, False),
        ({"trials": 2000, "slowest_s": 0.99}, True),
        ({"trials": 2000, "slowest_s": 1.01}, False),
    ],
)
def test_what_is_above_its_limit_is_said(
    found: dict[str, Any], kept: bool, watching: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watching.show(found) is kept
    assert ("is above its limit" in capsys.readouterr().out) is not kept


def test_each_page_is_asked_with_the_token(watching: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Authorization"] == "Bearer of-the-test"
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"something")

        def log_message(self, *_: Any) -> None:
            return

    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-test")
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        node = {"NodeManagerAddress": "127.0.0.1", "MetricsExportPort": server.server_port}
        found = watching.page_answers(f"127.0.0.1:{server.server_port}", "07", node)
        server.shutdown()
    assert set(found) == {f"{name}, s" for name in (*watching.PAGES, "metrics")}
    assert len(asked) == watching.TIMES * len(found)
    assert any("filter_values=07" in path for path in asked)


def test_the_longest_of_several_answers_counts(watching: Any) -> None:
    took = [0.1, 0.7, 0.2, 0.3, 0.4] * 6
    node = {"NodeManagerAddress": "10.0.0.1", "MetricsExportPort": 8080}
    found = watching.page_answers("127.0.0.1:8265", "07", node, lambda address: took.pop())
    assert set(found.values()) == {0.7}
    assert not took


def test_a_part_that_is_not_there_is_refused(watching: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert watching.main(["chekc"]) == 2
    assert "no benchmark chekc; there are check, dashboard" in capsys.readouterr().err
