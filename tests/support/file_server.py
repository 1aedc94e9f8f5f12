"""A plain web server on 127.0.0.1 that serves a folder, resumes by range, and can misbehave."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """Serves the files of a folder.

    Attributes
    ----------
    requests : list of (path, start)
        What was asked for, with the first byte.
    drop : dict of path to list of int
        For each request of a path in turn: close the connection after that many bytes.
    ranges : bool
        Whether ranges are understood.
    broken : dict of path to status
        Answers without a file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, int]] = []
        self.drop: dict[str, list[int]] = {}
        self.broken: dict[str, int] = {}
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                outer._answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.lstrip("/")
        span = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(span[1]) if span and self.ranges else 0
        self.requests.append((name, start))
        path = self.folder / name
        status = self.broken.get(name, 200 if path.is_file() else 404)
        if status != 200:
            request.send_error(status)
            return
        data = path.read_bytes()
        if start >= len(data) > 0 and start:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        if name.endswith(".gz"):
            # As web servers do that take the suffix for an encoding of the transfer.
            request.send_header("Content-Encoding", "x-gzip")
        request.end_headers()
        cuts = self.drop.get(name, [])
        stop = start + cuts.pop(0) if cuts else len(data)
        request.wfile.write(data[start:stop])
