"""Digests of code that change when a number may change, and not when words do.

A job's digest covers its script and every definition (function, class, constant) of reprscope that
the script may come to use, found by following names from definition to definition. So an edit
re-runs the stages that use what was edited: a new constant beside the one that a stage reads
changes nothing, and neither does a sentence of the report, if only the report says it.

Left out is what cannot change a number: comments, docstrings, formatting, annotations of functions,
the text of messages (what a :class:`~reprscope.runtime.errors.UserError` says and what is logged),
everything in :data:`NEUTRAL`, and where a definition stands: it may move to another module.

What cannot be followed is taken as a whole: a module that is handed on as an object, and
definitions behind a decorator that may register them. What a script loads by name (a task, a
model family) is named by the caller.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from reprscope.runtime import fingerprints
from reprscope.runtime.errors import UserError

PACKAGE = Path(__file__).parents[1]

NEUTRAL: Final = "reprscope.runtime"
"""Its modules cannot change a number, and are not followed.

They report, wait, write files under other names until they are complete, and cut batches.
"""

_PURE: Final = ("cache", "contextlib", "dataclass", "functools", "torch")
"""Roots of decorators that leave a definition where it is; any other may register it."""

_ALWAYS: Final = ""
"""Name under which a module keeps the statements that run whenever it is imported."""

Node = tuple[str, str]
"""A module and the name of one of its definitions."""


@dataclass(frozen=True)
class Facts:
    """What a file defines.

    Attributes
    ----------
    definitions : mapping of name to (digest, uses)
        Digest of what each top-level definition means, and the names that it uses, dotted.
    imports : mapping of name to sequence of str
        What local names stand for: ``reprscope.x`` or ``reprscope.x:name``.
    """

    definitions: Mapping[str, tuple[str, Sequence[str]]]
    imports: Mapping[str, Sequence[str]]


def code_digest(script: Path, modules: Iterable[str] = ()) -> str:
    """Digest of what a script may run.

    Parameters
    ----------
    script : Path
        A Python file; all of it counts.
    modules : iterable of str
        What the script loads by name: a module (``reprscope.models.families.unet``), or one of its
        definitions (``reprscope.tasks.correspondence:measure``).
    """
    order, edges = _walk(script, modules)
    number = {node: place for place, node in enumerate(order)}
    parts = [
        [_digest(script, node), [[number[target] for target in found] for found in edges[node]]]
        for node in order
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def followed(script: Path, modules: Iterable[str] = ()) -> dict[str, list[str]]:
    """Definitions of reprscope that a digest covers, by module; see :func:`code_digest`."""
    order, _ = _walk(script, modules)
    found: dict[str, list[str]] = {}
    for module, name in order:
        if module:
            found.setdefault(module, [])
            if name != _ALWAYS:
                found[module].append(name)
    return {module: sorted(names) for module, names in sorted(found.items())}


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


def remember() -> None:
    """Keep what is known of code, so that jobs need not parse what the plan has parsed."""
    _remembered().save()


def module_path(name: str) -> Path | None:
    """File of a module of reprscope; None if there is none of that name."""
    parts = name.split(".")
    if parts[0] != "reprscope":
        return None
    path = PACKAGE.joinpath(*parts[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported(path: Path) -> list[str]:
    """Modules of reprscope that a file imports, wherever in it, by the names it uses for them."""
    found: set[str] = set()
    for targets in _facts(path).imports.values():
        for target in targets:
            module, _, name = target.partition(":")
            inner = f"{module}.{name}"
            found.add(inner if name and module_path(inner) is not None else module)
    return sorted(found)


def _walk(script: Path, modules: Iterable[str]) -> tuple[list[Node], dict[Node, list[list[Node]]]]:
    """Everything that a script may use in the order in which it is met, and what each uses."""
    start: Node = ("", _ALWAYS)
    order, edges = [start], {start: _script_uses(script, modules)}
    seen, at = {start}, 0
    while at < len(order):
        for target in (target for found in edges[order[at]] for target in found):
            if target not in seen:
                seen.add(target)
                order.append(target)
                edges[target] = _uses(target)
        at += 1
    return order, edges


def _script_uses(script: Path, modules: Iterable[str]) -> list[list[Node]]:
    facts = _facts(script)
    uses = [
        list(_targets(facts, use))
        for name in sorted(facts.definitions)
        for use in facts.definitions[name][1]
        if use.split(".")[0] in facts.imports
    ]
    for entry in sorted(set(modules)):
        module, _, name = entry.partition(":")
        uses.append(list(_optional(module, name) if name else _whole(module)))
    return uses


def _optional(module: str, name: str) -> Iterator[Node]:
    """A definition that a module may lack."""
    path = module_path(module)
    if path is not None and name in (*_facts(path).definitions, *_facts(path).imports):
        yield from _symbol(module, name, [])


def _uses(node: Node) -> list[list[Node]]:
    """What a definition uses, a list for each name; its module's own statements first."""
    module, name = node
    path = module_path(module)
    assert path is not None
    facts = _facts(path)
    always = [] if name == _ALWAYS else [[(module, _ALWAYS)]]
    inside = [
        list(_symbol(module, root, []) if root in facts.definitions else _targets(facts, use))
        for use in facts.definitions.get(name, ("", ()))[1]
        for root in use.split(".")[:1]
    ]
    return always + inside


def _targets(facts: Facts, use: str) -> Iterator[Node]:
    """What a dotted name that starts at an import leads to."""
    root, *rest = use.split(".")
    for target in facts.imports.get(root, ()):
        module, _, name = target.partition(":")
        yield from _symbol(module, name, rest) if name else _member(module, rest)


def _member(module: str, rest: list[str]) -> Iterator[Node]:
    """What attributes of a module lead to; without any, all of the module."""
    if _neutral(module):
        return
    if rest:
        yield from _symbol(module, rest[0], rest[1:])
    else:
        yield from _whole(module)


def _symbol(module: str, name: str, rest: list[str]) -> Iterator[Node]:
    path = module_path(module)
    if path is None or _neutral(module):
        return
    facts = _facts(path)
    if name in facts.definitions:
        yield (module, name)
    elif name in facts.imports:
        for target in facts.imports[name]:
            inner, _, symbol = target.partition(":")
            yield from _symbol(inner, symbol, rest) if symbol else _member(inner, rest)
    elif module_path(f"{module}.{name}") is not None:
        yield from _member(f"{module}.{name}", rest)
    elif not name.startswith("__"):
        yield from _whole(module)


def _whole(module: str) -> Iterator[Node]:
    path = module_path(module)
    if path is not None and not _neutral(module):
        for name in sorted({_ALWAYS, *_facts(path).definitions}):
            yield (module, name)


def _neutral(module: str) -> bool:
    return f"{module}.".startswith(f"{NEUTRAL}.")


def _digest(script: Path, node: Node) -> str:
    module, name = node
    path = module_path(module) if module else script
    assert path is not None
    definitions = _facts(path).definitions
    if not module:
        return "".join(definitions[name][0] for name in sorted(definitions))
    return definitions.get(name, ("", ()))[0]


@cache
def _remembered() -> fingerprints.Known:
    """What is known of code files by this very module under this Python."""
    key = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()[:16]
    return fingerprints.Known(fingerprints.FOLDER / f"code-{key}.json")


@cache
def _facts(path: Path) -> Facts:
    """Facts about a file, read anew only if it has changed."""
    text = _remembered().fact(str(path), _read)
    return Facts(**json.loads(text))


def _read(path: Path) -> str:
    tree = _without_words(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    imports: dict[str, list[str]] = {}
    for name, target in _imports(tree):
        if target not in imports.setdefault(name, []):
            imports[name].append(target)
    parts: dict[str, list[ast.stmt]] = {}
    for statement in _statements(tree.body):
        for name in _bound(statement):
            parts.setdefault(name, []).append(statement)
    known = {*parts, *imports}
    definitions = {
        name: [
            hashlib.sha256("\n".join(map(ast.unparse, statements)).encode()).hexdigest()[:16],
            sorted({use for one in statements for use in _names(one, known)} - {name}),
        ]
        for name, statements in parts.items()
    }
    return json.dumps({"definitions": definitions, "imports": imports}, separators=(",", ":"))


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements but for imports, with those under an ``if`` as if it were not there."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements([*statement.body, *statement.orelse])
            yield ast.Expr(statement.test)
        elif not isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a top-level statement defines; :data:`_ALWAYS` if it does anything else."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            pure = all(_root(decorator) in _PURE for decorator in statement.decorator_list)
            return [statement.name] if pure else [statement.name, _ALWAYS]
        case ast.Assign(targets=targets):
            leaves = [leaf for target in targets for leaf in _leaves(target)]
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            leaves = list(_leaves(target))
        case ast.Expr(value=ast.Name(id="TYPE_CHECKING")) | ast.Pass():
            return []
        case _:
            return [_ALWAYS]
    named = [leaf.id for leaf in leaves if isinstance(leaf, ast.Name)]
    return named if len(named) == len(leaves) else [*named, _ALWAYS]


def _leaves(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _leaves(element)
    else:
        yield target


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.AST, known: set[str]) -> Iterator[str]:
    """Known names that a piece of code uses, with the attributes that are asked of them."""
    if isinstance(node, ast.Attribute | ast.Name):
        chain: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            if inner.id in known:
                yield ".".join([inner.id, *reversed(chain)])
            return
        yield from _names(inner, known)
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child, known)


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Local names of what is imported from reprscope, wherever in the file, and what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "reprscope":
                    yield (alias.asname, alias.name) if alias.asname else ("reprscope",) * 2
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "reprscope":
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}:{alias.name}"


class _Wordless(ast.NodeTransformer):
    """Takes out docstrings, imports, logging, what errors say, and functions' annotations."""

    def visit(self, node: ast.AST) -> Any:
        node = self.generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                kept = [statement for statement in block if not _says_only(statement)]
                if not kept and field == "body":
                    kept = [] if isinstance(node, ast.Module) else [ast.Pass()]
                setattr(node, field, kept)
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.Call) and _root(node.func) == "UserError":
            return ast.copy_location(ast.Call(func=node.func, args=[], keywords=[]), node)
        return node


def _says_only(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
            return True
    return False


def _without_words(tree: ast.Module) -> ast.Module:
    """The same code without what cannot change a number; imports are read from the original."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    wordless: ast.Module = _Wordless().visit(tree)
    wordless.body = [*imports, *wordless.body]
    return wordless
