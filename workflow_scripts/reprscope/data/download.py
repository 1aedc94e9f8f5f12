"""Plain HTTP downloads that resume, are verified, and are kept for all studies.

A file lands in the cache, ``$REPRSCOPE_CACHE`` or ``~/.cache/reprscope``, and is never fetched
again. What has arrived of an unfinished file stays beside it, so that the next run goes on there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from reprscope.runtime.errors import UserError
from reprscope.runtime.progress import progress

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

#: Bytes that are read at a time.
BLOCK = 1 << 16

#: Times that one address is asked, each going on where the last was cut off.
ATTEMPTS = 3

#: Seconds to wait for a connection, and for the next bytes.
TIMEOUT = (30, 120)


class _FailedError(Exception):
    """Why one address did not give the file."""


def cache() -> Path:
    """Folder of the downloads that all studies share."""
    return Path(os.environ.get("REPRSCOPE_CACHE") or Path.home() / ".cache" / "reprscope")


def fetch(
    urls: Sequence[str], *, what: str, size: int | None = None, checksum: str | None = None
) -> Path:
    """Path of a file that one of several addresses gives.

    Parameters
    ----------
    urls : sequence of str
        Addresses, tried in order.  Those without ``http`` are files on this machine, as paths or
        with ``file:``; they come first and are used where they are.
    what : str
        How to name the file in an error.
    size : int or None
        Expected number of bytes.
    checksum : str or None
        Expected checksum, as ``sha256:`` or ``md5:`` and the hexadecimal digits.

    Raises
    ------
    UserError
        If no address gives the file as expected (a wrong one is deleted), or the disk is full.
    """
    failures: list[str] = []
    remote = [url for url in urls if _is_remote(url)]
    for path in _paths(urls):
        try:
            _verify(path, size, checksum)
            return path
        except (OSError, _FailedError) as error:
            failures.append(f"{path}: {error}")
    if remote:
        target = _target(remote[0], checksum)
        with _locked(target):
            if _is_kept(target, size, checksum) or _fetch_first(
                remote, target, size, checksum, failures
            ):
                return target
    raise UserError(
        f"{what} cannot be had ({'; '.join(failures)}): run again to go on with what has arrived, "
        "or fetch the file yourself and put its path into `urls`."
    )


def files(urls: Sequence[str]) -> list[str]:
    """Those of several addresses that are files on this machine, sorted."""
    return sorted(str(path) for path in _paths(urls) if path.is_file())


def _is_remote(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _paths(urls: Sequence[str]) -> list[Path]:
    """Addresses on this machine, whether a file is there or not."""
    return [
        Path(url2pathname(urlsplit(url).path) if url.startswith("file:") else url)
        for url in urls
        if not _is_remote(url)
    ]


def _is_kept(target: Path, size: int | None, checksum: str | None) -> bool:
    """Whether a file is in the cache, as it was fetched; another is removed."""
    try:
        _verify(target, size, checksum)
    except FileNotFoundError:
        return False
    except _FailedError as error:
        logger.warning("%s is not what was fetched (%s) and is fetched anew", target, error)
        target.unlink()
        return False
    return True


def _fetch_first(
    urls: Sequence[str],
    target: Path,
    size: int | None,
    checksum: str | None,
    failures: list[str],
) -> bool:
    """Fetch ``target`` from the first address that gives it; add why others did not."""
    for url in urls:
        part = target.with_name(f".{_short(url)}.part-{target.name}")
        try:
            logger.info("Download %s", url)
            _download(url, part)
            _verify_part(part, size, checksum)
        except _FailedError as error:
            logger.warning("%s: %s", url, error)
            failures.append(f"{url}: {error}")
            continue
        part.replace(target)
        for other in target.parent.glob(f".*.part-{target.name}"):
            other.unlink()
        return True
    return False


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _target(url: str, checksum: str | None) -> Path:
    """Where a file is kept: by its checksum, or by its address if that is not known."""
    return cache() / "downloads" / _short(checksum or url) / url.rstrip("/").rpartition("/")[2]


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time fetch a file; the kernel frees the lock on any death."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(url: str, part: Path) -> None:
    """Complete ``part``, going on while each attempt brings something."""
    import requests

    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            _transfer(url, part)
            return
        except requests.RequestException as error:
            if attempt == ATTEMPTS or _size(part) == before:
                reason = "the connection was cut off" if _size(part) else "no answer"
                raise _FailedError(f"{reason} ({type(error).__name__})") from error
            logger.warning("%s: cut off at %d bytes", url, _size(part))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"The disk that should hold {part.parent} is full: free some space, or set "
                    "REPRSCOPE_CACHE to another folder, and run again."
                ) from error
            raise


def _transfer(url: str, part: Path) -> None:
    """Ask once for what is missing of ``part`` and append what comes."""
    import requests
    from urllib3.exceptions import HTTPError

    start = _size(part)
    # An archive must arrive as it is: no encoding, and none undone.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416 and span == f"bytes */{start}":
            return
        if answer.status_code in (206, 416) and not span.startswith(f"bytes {start}-"):
            # What has arrived is not a beginning of what is there now.
            part.unlink(missing_ok=True)
            raise requests.ConnectionError(f"the server offers the range {span}")
        if answer.status_code >= 400:
            raise _FailedError(f"status {answer.status_code} {answer.reason}")
        if answer.status_code != 206:
            start = 0
        try:
            _append(answer, part, start)
        except HTTPError as error:
            raise requests.ConnectionError(error) from error


def _append(answer: requests.Response, part: Path, start: int) -> None:
    total = start + int(answer.headers.get("Content-Length", 0))
    with (
        part.open("ab" if start else "wb") as file,
        progress(total >> 10, "KiB") as advance,
    ):
        advance(start >> 10)
        for block in answer.raw.stream(BLOCK, decode_content=False):
            file.write(block)
            advance(len(block) >> 10)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _verify_part(part: Path, size: int | None, checksum: str | None) -> None:
    try:
        _verify(part, size, checksum)
    except _FailedError:
        part.unlink()
        raise


def _verify(path: Path, size: int | None, checksum: str | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise _FailedError(f"it has {found} bytes, not {size}")
    if checksum is not None:
        kind, _, expected = checksum.partition(":")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, kind).hexdigest()
        if digest != expected.lower():
            raise _FailedError(f"its {kind} is {digest}, not {expected}")


def check_settings(urls: Sequence[str], checksum: str | None) -> None:
    """Check the settings of a download before any work.

    Raises
    ------
    UserError
        If there is no address, or the checksum has another form than ``sha256:…``.
    """
    if not urls:
        raise UserError("urls is empty: name at least one address or file.")
    if checksum is not None and checksum.partition(":")[0] not in ("sha256", "md5"):
        raise UserError(f"checksum is {checksum}: write sha256: or md5: before the digits.")
