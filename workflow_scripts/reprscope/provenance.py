"""Specs, and digests of code that change only when its meaning does."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from reprscope import fingerprints
from reprscope.errors import UserError

PACKAGE = Path(__file__).parent
LIBRARIES = ("diffusers", "h5py", "numpy", "polars", "torch", "transformers")


def canonical_json(value: object) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def code_digest(script: Path, modules: Iterable[str] = ()) -> str:
    """Digest of a script and of everything in reprscope that it imports.

    Comments, docstrings and formatting do not count; neither does the path of the checkout.

    Parameters
    ----------
    script : Path
        A Python file.
    modules : iterable of str
        Modules that the script loads by name (a task, a dataset source), such as
        ``reprscope.tasks.correspondence``.
    """
    found: dict[str, str] = {}
    queue = [*_imports(script), *modules]
    while queue:
        name = queue.pop()
        path = _module_path(name)
        if name in found or path is None:
            continue
        found[name] = _meaning(path)
        queue.extend(_imports(path))
    parts = [_meaning(script), *(f"{name}={found[name]}" for name in sorted(found))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _module_path(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] != "reprscope":
        return None
    path = PACKAGE.joinpath(*parts[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _remembered() -> fingerprints.Known:
    """What is known of code files by this very module under this Python."""
    key = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:16]
    return fingerprints.Known(fingerprints.FOLDER / f"code-{key}.json")


def remember() -> None:
    """Keep what is known of code, so that jobs need not parse what the plan has parsed."""
    _remembered().save()


@cache
def _facts(path: Path) -> tuple[str, tuple[str, ...]]:
    """Digest of what a file means, and the modules that it imports."""
    text = _remembered().fact(
        str(path), lambda path: "\n".join([_read_meaning(path), *_names(_tree(path))])
    )
    meaning, *names = text.split("\n")
    return meaning, tuple(names)


def _meaning(path: Path) -> str:
    return _facts(path)[0]


def _imports(path: Path) -> tuple[str, ...]:
    return _facts(path)[1]


def check_code(planned: str, script: str, modules: Iterable[str]) -> None:
    """Check that the code is still that for which a job was planned.

    Raises
    ------
    UserError
        If it was edited in between: what the job makes would say that it was made by other code.
    """
    if code_digest(PACKAGE.parent / script, modules) != planned:
        raise UserError(
            f"The code that {script} runs was edited after this run was planned: run again."
        )


def _read_meaning(path: Path) -> str:
    """Digest of a file's syntax tree without docstrings."""
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _names(tree: ast.Module) -> Iterator[str]:
    """Names of imported reprscope modules, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def origin(
    *, model: Path, device: str, precision: str | Mapping[str, str], **more: object
) -> dict[str, object]:
    """What a file of latents or representations was made with, beside its spec.

    Parameters
    ----------
    model : Path
        Manifest of the model.
    device : str
    precision : str or mapping of str
        Where and in which type the model ran, or each of its parts.
    **more
        What else a reader wants to know, such as ``machine`` (see
        :func:`reprscope.device.machine`).
    """
    manifest = json.loads(model.read_text(encoding="utf-8"))
    return {
        "model": digest(manifest),
        "revision": manifest["revision"],
        "device": device,
        "precision": precision,
        "versions": versions(),
        **more,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on, without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
