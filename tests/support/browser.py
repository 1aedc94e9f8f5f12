"""Opening a page in headless Chromium: what it logs, asks the network for, and draws.

Chromium is driven over its own pipe (the DevTools protocol), so no further package is needed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
CHARTS = "document.querySelectorAll('.vega-embed svg.marks, .vega-embed canvas.marks').length"
# Chromium reads commands from descriptor 3 and writes answers to descriptor 4; the copies above
# ten keep one from overwriting the other.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
READY = "document.documentElement.dataset.charts === 'ready'"


def executable() -> str | None:
    """Path of a Chromium, or None if the machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True)
class Visit:
    """What happened while a page was open.

    ``requests`` are those beyond the page itself and its data URIs; ``value`` is the result of
    ``script``.
    """

    errors: list[str]
    charts: int
    requests: list[str]
    value: Any = None


class Page:
    """One open page."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        for answer in self._messages(timeout=60):
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise TimeoutError(f"Chromium did not answer {method}.")

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", details).get("description", details))
        return result["result"].get("value")

    def wait(self, expression: str, *, timeout: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + timeout
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} did not become true in {timeout} s.")
            time.sleep(0.05)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path) -> None:
        """Save what the window shows, as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def errors(self) -> list[str]:
        """Uncaught exceptions, console errors and warnings, and refused loads."""
        found = []
        for event in self.events:
            details = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(details["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled":
                if details["type"] in ("error", "warning", "assert"):
                    texts = [str(a.get("value", a.get("description"))) for a in details["args"]]
                    found.append(" ".join(texts))
            elif event.get("method") == "Log.entryAdded" and details["entry"]["level"] in (
                "error",
                "warning",
            ):
                found.append(details["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses asked for, without data URIs."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [e["params"]["request"]["url"] for e in sent]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    def _messages(self, *, timeout: float) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + timeout
        while True:
            while b"\0" in self._buffer:
                message, self._buffer = self._buffer.split(b"\0", 1)
                yield json.loads(message)
            if not select.select([self._back], [], [], max(0.0, end - time.monotonic()))[0]:
                return
            data = os.read(self._back, 1 << 20)
            if not data:
                raise RuntimeError("Chromium ended.")
            self._buffer += data


@contextmanager
def browse(where: Path | str, *, width: int = 1400, height: int = 2400) -> Iterator[Page]:
    """Open a file or an address in a fresh Chromium and yield the page once it has loaded."""
    chromium = executable()
    if chromium is None:
        raise FileNotFoundError("No Chromium is installed.")
    url = where.resolve().as_uri() if isinstance(where, Path) else where
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCH,
                str(in_read),
                str(out_write),
                chromium,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
            ],
            pass_fds=(in_read, out_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(in_read)
        os.close(out_write)
        try:
            page = Page(in_write, out_read)
            page.attach()
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=False,
            )
            page.call("Page.navigate", url=url)
            page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
            yield page
        finally:
            os.close(in_write)
            os.close(out_read)
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Chromium leaves when its pipe closes; if it does not, its own process group is ended."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def open_page(
    where: Path | str,
    *,
    ready: str = READY,
    script: str | None = None,
    screenshot: Path | None = None,
    width: int = 1400,
    height: int = 2400,
) -> Visit:
    """Open a page, wait until ``ready`` (JavaScript) is true, and say what happened.

    ``script`` is evaluated in the page afterwards.
    """
    url = where.resolve().as_uri() if isinstance(where, Path) else where
    with browse(where, width=width, height=height) as page:
        page.wait(ready)
        value = page.evaluate(script) if script else None
        charts = page.evaluate(CHARTS)
        if screenshot:
            page.screenshot(screenshot)
        requests = page.requests()
        if requests[:1] == [url]:
            requests = requests[1:]
        return Visit(page.errors(), charts, requests, value)
