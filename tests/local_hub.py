"""A small Hub on this machine, for the real huggingface_hub client to talk to.

It serves what the client asks of https://huggingface.co: facts, lists of files, files with ranges; and takes uploads.
Tests fill `hub.repositories`, and look at `hub.requests` afterwards.
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

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        digests = [(name, hashlib.sha1(content).hexdigest()) for name, content in sorted(files.items())]
        sha = hashlib.sha1(repr(digests).encode()).hexdigest()
        self.commits[sha] = files
        for ref in refs or ("main",):
            self.refs[ref] = sha
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.refs.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class LocalHub(ThreadingHTTPServer):
    daemon_threads = True
    cache: tempfile.TemporaryDirectory

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.forget()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def forget(self) -> None:
        """As fresh from the start: no repositories, no requests, nothing goes wrong."""
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.status: int | None = None  # every answer is this one

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes] | Path, *refs: str) -> Repository:
        """A repository with one commit; a directory stands for the files in it."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir()}
        repository = self.repositories.setdefault(name, Repository())
        repository.commit(files, *refs)
        return repository

    def downloads(self) -> list[str]:
        """The files that were fetched, in order; a name twice where a download went on."""
        gets = (urlsplit(path).path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path)
        return [path.rpartition("/")[2] for path in gets]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.server.status is not None:
            return self.send(self.server.status, {"error": "as the test wants it"})
        if self.command == "POST":
            return self.take(path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if "/resolve/" in path:
            name, _, rest = path.strip("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            return self.send_file(name, revision, file)
        parts = path.strip("/").split("/")  # api models owner name revision|tree <revision>
        if parts[:2] == ["api", "models"] and len(parts) >= 6:
            return self.send_facts("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        return self.refuse("RepoNotFound")

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server.repositories.get(name)
        wants = f"Bearer {repository.token}" if repository is not None and repository.token else None
        if repository is None or (wants and self.headers.get("Authorization") != wants):
            self.refuse("RepoNotFound", 404 if wants is None else 401)
            return None
        found = repository.at(revision)
        if found is None:
            self.refuse("RevisionNotFound")
        return found

    def send_facts(self, name: str, what: str, revision: str) -> None:
        if (found := self.find(name, revision)) is None:
            return
        sha, files = found
        if what == "revision":
            self.send(
                200,
                {
                    "id": name,
                    "sha": sha,
                    "siblings": [{"rfilename": file, "size": len(content)} for file, content in files.items()],
                },
            )
        else:
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in files.items()
            ]
            self.send(200, entries)

    def send_file(self, name: str, revision: str, file: str) -> None:
        if (found := self.find(name, revision)) is None:
            return None
        sha, files = found
        if self.server.repositories[name].gated:  # facts and lists are everyone's
            return self.refuse("GatedRepo", 403)
        if file not in files:
            return self.refuse("EntryNotFound")
        content = files[file]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.wfile.write(content[start:])
        return None

    def take(self, path: str, body: bytes) -> None:
        """An upload: create the repository, say how each file should come, take the commit."""
        parts = path.strip("/").split("/")
        if not (self.headers.get("Authorization") or "").endswith("may-write"):
            return self.send(403, {"error": "this token may not write"})
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            if name in self.server.repositories:
                return self.send(409, {"error": "there is one", "url": f"{self.server.address}/{name}"})
            self.server.add(name, {})
            return self.send(200, {"url": f"{self.server.address}/{name}", "name": name, "id": name})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        new = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        before = self.server.repositories[name].at("main")
        sha = self.server.repositories[name].commit({**(before[1] if before is not None else {}), **new})
        return self.send(200, {"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def refuse(self, code: str, status: int = 404) -> None:
        self.send(status, {"error": code}, {"X-Error-Code": code})

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
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
