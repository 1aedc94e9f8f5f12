"""A stand-in of the Hugging Face hub on 127.0.0.1, for the real clients.

It serves a folder, ``models/{owner}/{name}/...`` and ``datasets/{owner}/{name}/...``, answers what
``huggingface_hub`` and ``datasets`` ask, remembers the requests, and misbehaves on demand.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".model")
"""Endings of files that the hub keeps in large-file storage, with their SHA-256 as ETag."""


def commit_of(repository: str) -> str:
    """The one commit of a repository, 40 hex digits."""
    return hashlib.sha1(repository.encode()).hexdigest()


@dataclass
class Hub:
    """The running stand-in.

    Attributes
    ----------
    folder : Path
        What it serves.
    requests : list of (method, path)
    commits : dict
        Commits of repositories by name, where they are not :func:`commit_of` the name.
    gated : set of str
        Repositories that answer 403 GatedRepo.
    dropped : dict
        File name to the bytes at which the connection is dropped, one for each of the next
        requests.
    short : set of str
        Files of which the last byte is missing.
    resumed : list of str
        Paths of which only the rest was asked for.
    corrupt : set of str
        Files of which one byte is wrong, under the right checksum.
    """

    folder: Path
    endpoint: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    short: set[str] = field(default_factory=set)
    resumed: list[str] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)

    def commit(self, repository: str) -> str:
        """The commit that a repository is at."""
        return self.commits.get(repository, commit_of(repository))

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables that send the real clients here; set them before import."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def downloads(self) -> list[str]:
        """Paths of the files that were asked for with their content."""
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(self.rfile.read(length))

    def _answer(self, body: bytes = b"") -> None:
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, url.path))
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if parts[0] == "api" and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], query, body)
        elif "resolve" in parts:
            kind = "datasets" if parts[0] == "datasets" else "models"
            at = parts.index("resolve")
            repository = "/".join(parts[at - 2 : at])
            self._file(kind, repository, "/".join(parts[at + 2 :]))
        else:
            self._fail(404, "EntryNotFound")

    def _known(self, kind: str, repository: str) -> Path | None:
        root = self.hub.folder / kind / repository
        if not root.is_dir():
            self._fail(404, "RepoNotFound")
            return None
        return root

    def _api(
        self, kind: str, repository: str, rest: list[str], query: dict[str, str], body: bytes
    ) -> None:
        root = self._known(kind, repository)
        if root is None:
            return
        sha = self.hub.commit(repository)
        if not rest or rest[0] == "revision":
            if len(rest) > 1 and rest[1] not in ("main", sha):
                self._fail(404, "RevisionNotFound")
                return
            names = [str(p.relative_to(root)) for p in sorted(root.rglob("*")) if p.is_file()]
            self._json(
                {
                    "id": repository,
                    "sha": sha,
                    "private": False,
                    "gated": "manual" if repository in self.hub.gated else False,
                    "disabled": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "siblings": [{"rfilename": name} for name in names],
                }
            )
        elif rest[0] == "tree":
            under = root / "/".join(rest[2:])
            deep = query.get("recursive", "false").lower() == "true"
            if not under.is_dir():
                self._fail(404, "EntryNotFound")
                return
            found = sorted(under.rglob("*") if deep else under.iterdir())
            self._json([_entry(root, path) for path in found])
        elif rest[0] == "paths-info":
            names = _paths(body)
            self._json([_entry(root, root / name) for name in names if (root / name).exists()])
        else:
            self._fail(404, "EntryNotFound")

    def _file(self, kind: str, repository: str, name: str) -> None:
        root = self._known(kind, repository)
        if root is None:
            return
        if repository in self.hub.gated:
            self._fail(403, "GatedRepo")
            return
        path = root / name
        if not path.is_file():
            self._fail(404, "EntryNotFound")
            return
        data = path.read_bytes()
        etag = _etag(path, data)
        if name in self.hub.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        size = len(data)
        if name in self.hub.short:
            data = data[:-1]
        start = 0
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            self.hub.resumed.append(name)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.hub.commit(repository))
        self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Linked-ETag", f'"{etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.dropped.get(name):
            self.wfile.write(data[start : self.hub.dropped[name].pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data[start:])

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {})

    def _fail(self, status: int, code: str) -> None:
        text = json.dumps({"error": code}).encode()
        self._send(status, text, {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(path: Path, data: bytes) -> str:
    if path.suffix in LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(root: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(root))
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": commit_of(name)}
    data = path.read_bytes()
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }
    if path.suffix in LARGE:
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 135}
    return entry


def _paths(body: bytes) -> list[str]:
    text = body.decode()
    if text.startswith("{"):
        return list(json.loads(text)["paths"])
    return parse_qs(text).get("paths", [])


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve a folder until the context ends."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
