"""A small Hub on this machine, for the real huggingface_hub client: it serves metadata and files, and takes uploads.

Tests fill it with `hub.add`, and look at `hub.requests` afterwards.
"""

import base64
import functools
import hashlib
import json
import os
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by name, for each commit; `refs` says which commit a branch or a tag stands for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # whoever does not send it is told that there is no such repository
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        digests = [(name, hashlib.sha1(content).hexdigest()) for name, content in sorted(files.items())]
        self.refs[ref] = hashlib.sha1(repr(digests).encode()).hexdigest()
        self.commits[self.refs[ref]] = files
        return self.refs[ref]

    def files(self, revision: str = "main") -> dict[str, bytes] | None:
        return self.commits.get(self.refs.get(revision, revision))


class LocalHub(ThreadingHTTPServer):
    daemon_threads = True
    cache: tempfile.TemporaryDirectory

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.forget()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def forget(self) -> None:
        """As fresh from the start: no repositories, no requests, nothing goes wrong."""
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []  # method, path
        self.status: int | None = None  # every answer is this one

    def add(self, name: str, files: dict[str, bytes] | Path, ref: str = "main") -> Repository:
        """A repository with one commit; a directory stands for the files in it."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir()}
        repository = self.repositories.setdefault(name, Repository())
        repository.commit(files, ref)
        return repository

    def downloads(self) -> list[str]:
        """The files that were fetched, in order."""
        return [path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, path))
        if self.server.status is not None:
            self.send(self.server.status, {"error": "as the test wants it"})
        elif self.command == "POST":
            self.take(path, body)
        else:
            self.serve(path)

    do_HEAD = do_GET = do_POST = answer  # noqa: N815

    def serve(self, path: str) -> None:
        """A file, <name>/resolve/<revision>/<file>, or metadata, api/models/<name>/revision/<revision>."""
        if "/resolve/" in path:
            name, _, rest = path.partition("/resolve/")
            revision, _, file = rest.partition("/")
        else:
            name, _, revision = path.removeprefix("api/models/").partition("/revision/")
            file = ""
        repository = self.server.repositories.get(name)
        is_private = repository is not None and repository.token is not None
        if repository is None or (is_private and self.headers.get("Authorization") != f"Bearer {repository.token}"):
            return self.refuse("RepoNotFound", 401 if is_private else 404)
        files = repository.files(revision)
        if files is None:
            return self.refuse("RevisionNotFound")
        sha = repository.refs.get(revision, revision)
        if not file:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            return self.send(200, {"id": name, "sha": sha, "siblings": siblings})
        if repository.gated:
            return self.refuse("GatedRepo", 403)
        if file not in files:
            return self.refuse("EntryNotFound")
        etag = hashlib.sha1(files[file]).hexdigest()
        return self.send(200, files[file], {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

    def take(self, path: str, body: bytes) -> None:
        """An upload: create the repository, say how each file should come, take the commit."""
        if not (self.headers.get("Authorization") or "").endswith("may-write"):
            return self.send(403, {"error": "this token may not write"})
        if path == "api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.server.repositories.setdefault(name, Repository()).commit({})
            return self.send(200, {"url": f"{self.server.address}/{name}"})
        name = "/".join(path.split("/")[2:4])
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.send(200, {"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        sha = self.server.repositories[name].commit({file["path"]: base64.b64decode(file["content"]) for file in files})
        return self.send(200, {"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def refuse(self, code: str, status: int = 404) -> None:
        self.send(status, {"error": code}, {"X-Error-Code": code})

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@functools.cache
def the_hub() -> LocalHub:
    """The one Hub of this test session; huggingface_hub learns of it, and of its own cache, when it is imported."""
    hub = LocalHub()
    for variable in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(variable, None)
    os.environ["HF_ENDPOINT"] = hub.address
    hub.cache = tempfile.TemporaryDirectory(prefix="gptlab-hub-cache-")  # gone with the session
    os.environ["HF_HOME"] = hub.cache.name
    return hub
