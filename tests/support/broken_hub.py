"""A stand-in for a hub that is out of order: it gives every question the same status, or no answer at all, and counts them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest


@dataclass
class BrokenHub:
    """What was asked of it."""

    requests: list[str] = field(default_factory=list)


@contextmanager
def broken_hub(monkeypatch: pytest.MonkeyPatch, status: int | None) -> Iterator[BrokenHub]:
    """Makes the hub's client in this process talk to the stand-in.

    Args:
        monkeypatch: of the test.
        status: of every answer; None for none.
    """
    hub, ended = BrokenHub(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.requests.append(self.path)
            if status is None:
                ended.wait()
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    try:
        yield hub
    finally:
        ended.set()
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
