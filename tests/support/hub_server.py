"""A stand-in for the Hugging Face hub on this machine: whoami, repositories, uploads by git and by LFS, and commits.

Speaks the part of the hub's protocol that `huggingface_hub` uses to send files. Files are kept in memory by repository.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_ENDINGS = (".parquet", ".safetensors")


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """The state of the stand-in."""

    url: str
    token: str
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    """By kind (`dataset` or `model`) and ORG/NAME."""
    requests: list[str] = field(default_factory=list)
    """Method and path of each request, in order."""
    blobs: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def hub_server(token: str) -> Iterator[Hub]:
    """Runs the stand-in on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}", token)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._read()
        if not self._is_known():
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/whoami-v2":
            return self._answer(200, {"name": "someone", "type": "user", "orgs": []})
        kind, name = self._repository(r"/api/(\w+)s/([^/]+/[^/?]+)")
        found = self.hub.repositories.get((kind, name))
        if found is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": file} for file in found.files]
        return self._answer(200, {"id": name, "private": found.private, "siblings": siblings, "sha": "0" * 40, "tags": []})

    def do_PUT(self) -> None:
        data = self._read()
        self.hub.blobs[hashlib.sha256(data).hexdigest()] = data
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._read()
        if not self._is_known():
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories[asked["type"], name] = Repository(asked.get("visibility") == "private")
            return self._answer(200, {"url": f"{self.hub.url}/{asked['type']}s/{name}"})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}
                for asked in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        kind, name = self._repository(r"/api/(\w+)s/([^/]+/[^/]+)/commit/main")
        self._commit(self.hub.repositories[kind, name], body)
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}/commit/{'1' * 40}"
        return self._answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url})

    def _commit(self, repository: Repository, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]

    def _repository(self, pattern: str) -> tuple[str, str]:
        found = re.match(pattern, self.path)
        assert found, self.path
        return found[1], found[2]

    def _read(self) -> bytes:
        self.hub.requests.append(f"{self.command} {self.path}")
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(LFS_ENDINGS) else "regular"
