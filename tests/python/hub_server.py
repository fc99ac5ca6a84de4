# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the HuggingFace hub on 127.0.0.1: what huggingface_hub asks of a model's repository, and a log of it."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    branches: dict  # name -> {file: bytes}
    token: str = ""  # without it, the repository is hidden
    gated: bool = False  # without a token, it is shown but not given

    def commit(self, revision):
        """(commit, files) of a branch or commit, None where there is none."""
        for name, files in self.branches.items():
            commit = hashlib.sha1(b"".join(file.encode() + content for file, content in sorted(files.items()))).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


@dataclass
class Hub:
    repositories: dict  # name -> Repository
    cuts: dict = field(default_factory=dict)  # file -> byte at which the server closes the connection
    cut_again: bool = False  # the next time too
    down: bool = False  # answers 503
    log: list = field(default_factory=list)  # (method, kind, file, range, authorization)
    endpoint: str = ""

    def files(self, method="GET"):
        """The files that were asked for, once each."""
        return {entry[2] for entry in self.log if entry[0] == method and entry[1] == "resolve"}

    def ranges(self, file):
        return [entry[3] for entry in self.log if entry[:3] == ("GET", "resolve", file) and entry[3]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        hub, parts = self.server.hub, [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        if parts[:2] == ["api", "models"]:
            kind, name, rest = "api", "/".join(parts[2:4]), parts[4:]
            revision, file = (rest[1] if rest[:1] == ["revision"] else "main"), None
        else:
            at = parts.index("resolve")
            kind, name, revision, file = "resolve", "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :])
        authorization = self.headers.get("Authorization", "")
        hub.log.append((self.command, kind, file, self.headers.get("Range"), authorization))
        repository = hub.repositories.get(name)
        if hub.down:
            self._send(503, b"down")
        elif authorization and authorization != "Bearer good":
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.token and not authorization):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repository.gated and not authorization and kind == "resolve":
            self._send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif repository.commit(revision) is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif kind == "api":
            commit, files = repository.commit(revision)
            siblings = [{"rfilename": file} for file in files]
            self._send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())
        else:
            self._send_file(file, *repository.commit(revision))

    def _send_file(self, file, commit, files):
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file not in files:
            return self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        whole = files[file]
        headers["ETag"] = f'"{hashlib.sha256(whole).hexdigest()}"'
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        hub, body = self.server.hub, whole[start:]
        cut = hub.cuts.get(file) if self.command == "GET" else None
        if cut is not None and not hub.cut_again:
            del hub.cuts[file]
        self._send(206 if start else 200, body, headers, None if cut is None else max(cut - start, 0))

    def _send(self, status, body, headers=None, cut=None):
        """cut: bytes of the body after which the connection is closed."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        self.close_connection = self.close_connection or cut is not None


@contextmanager
def serve(repositories):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(repositories, endpoint=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
