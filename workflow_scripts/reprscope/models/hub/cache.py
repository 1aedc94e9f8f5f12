"""Files of the Hugging Face hub, in the cache that all studies and programs share.

What is in the cache is taken from there without a request. When a connection breaks, the client
asks for the rest of the file a few times; when it gives up, files that are complete stay in the
cache. Every file is compared with the hub's checksum.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprscope.models.registry import Repository
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import sha256

logger = logging.getLogger(__name__)

Choice = Callable[[Iterable[str], str], dict[str, str]]
"""From the paths of all files and a repository's name: canonical name to path, of those needed."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files of one commit in the cache.

    Attributes
    ----------
    repository, commit : str
    files : mapping
        Canonical name to path on this machine.
    """

    repository: str
    commit: str
    files: Mapping[str, Path]


class _SourceError(Exception):
    """Why a repository cannot be used; the next one may."""


Check = Callable[["Found"], None]
"""Raises a :class:`~reprscope.runtime.errors.UserError` if a model cannot be run, by its small
files."""


def obtain(sources: Sequence[Repository], choose: Choice, check: Check) -> Found:
    """Files of the first repository that has them: from the cache, else from the hub.

    Parameters
    ----------
    sources : sequence of Repository
        In the order in which they are tried.
    choose
        Which files are needed.
    check
        Is given the files that are no weights before weights are fetched.

    Raises
    ------
    UserError
        If none can be used (says why each cannot), the download stops, or a file is corrupt.
    """
    for source in sources:
        found = _cached(source, choose)
        if found is not None:
            logger.info("%s at %s is in the cache", found.repository, found.commit)
            check(_checked(found))
            return found
    reasons = []
    for source in sources:
        try:
            return _checked(_download(source, choose, check))
        except _SourceError as reason:
            logger.warning("%s", reason)
            reasons.append(str(reason).removesuffix("."))
    raise UserError("; ".join(reasons) + ".")


def _cached(source: Repository, choose: Choice) -> Found | None:
    """Files that are all in the cache already; no request is made."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        tree = get_cached_repo_tree(source.repository, revision=source.revision)
        files = choose([file.path for file in tree], source.repository)
        folder = snapshot_download(
            source.repository,
            revision=source.revision,
            allow_patterns=list(files.values()),
            local_files_only=True,
        )
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError, UserError):
        return None
    return _found(source, Path(folder), files)


def _download(source: Repository, choose: Choice, check: Check) -> Found:
    import httpx2
    from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import (
        CachedRepoTreeNotFoundError,
        DisabledRepoError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = source.repository
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{name} is not complete in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE "
            "forbids a download: unset it, or copy the cache of a machine that has the model."
        )
    logger.info("Downloading %s at %s", name, source.revision)
    try:
        # The first call asks for the list of files only, and keeps it in the cache.
        folder = snapshot_download(name, revision=source.revision, allow_patterns=[])
        commit = Path(folder).name
        tree = get_cached_repo_tree(name, revision=commit)
        try:
            files = choose([file.path for file in tree], name)
        except UserError as error:
            raise _SourceError(str(error)) from error
        # Small files first: whether access is granted shows before the weights come.
        small = {k: v for k, v in files.items() if not v.endswith(".safetensors")}
        if small:
            folder = snapshot_download(name, revision=commit, allow_patterns=list(small.values()))
            check(_checked(_found(source, Path(folder), small)))
        folder = snapshot_download(name, revision=commit, allow_patterns=list(files.values()))
    except GatedRepoError as error:
        raise _SourceError(
            f"{name} is gated: ask for access and accept the terms on {constants.ENDPOINT}/{name}, "
            "then log in with `hf auth login` or set HF_TOKEN, and run again"
        ) from error
    except RevisionNotFoundError as error:
        raise _SourceError(f"{name} has no revision {source.revision}: name another") from error
    except RepositoryNotFoundError as error:
        raise _SourceError(
            f"{name} does not exist on {constants.ENDPOINT}, or is private: name another repository"
        ) from error
    except DisabledRepoError as error:
        raise _SourceError(f"{name} is disabled on the hub: name another repository") from error
    except (httpx2.HTTPError, CachedRepoTreeNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"The download of {name} stopped ({reason or type(error).__name__}): run again, the "
            "files that are complete are kept."
        ) from error
    return _found(source, Path(folder), files)


def cached_configurations(sources: Sequence[Repository]) -> dict[str, Path]:
    """Configurations of a model's parts in the cache, of the first source that is there.

    Without a request, and without reading anything large: it is asked while a study is read.

    Returns
    -------
    mapping
        Name in diffusers' layout to path; empty if no source is in the cache.
    """
    from huggingface_hub import constants

    for source in sources:
        root = Path(constants.HF_HUB_CACHE, f"models--{source.repository.replace('/', '--')}")
        reference = root / "refs" / source.revision
        commit = reference.read_text().strip() if reference.is_file() else source.revision
        folder = root / "snapshots" / commit
        files = [*folder.glob("*/config.json"), *folder.glob("*/scheduler_config.json")]
        if files:
            return {path.relative_to(folder).as_posix(): path for path in files}
    return {}


def _found(source: Repository, folder: Path, files: Mapping[str, str]) -> Found:
    return Found(
        repository=source.repository,
        commit=folder.name,
        files={key: folder / file for key, file in files.items()},
    )


def _checked(found: Found) -> Found:
    """Compare every file with the hub's checksum, after which the cache names its content.

    Raises
    ------
    UserError
        If one differs; it is removed from the cache.
    """
    for name, path in found.files.items():
        content = path.resolve()
        if not _is_intact(content):
            content.unlink()
            path.unlink(missing_ok=True)
            raise UserError(
                f"{name} of {found.repository} is corrupt (its checksum is not the hub's), and was "
                "removed from the cache: run again to fetch it anew."
            )
    return found


def _is_intact(content: Path) -> bool:
    """Whether a file has the checksum that is its name: SHA-256, or git's for small files."""
    if re.fullmatch(r"[0-9a-f]{64}", content.name):
        return sha256(content) == content.name
    if re.fullmatch(r"[0-9a-f]{40}", content.name):
        data = content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == content.name
    return True
