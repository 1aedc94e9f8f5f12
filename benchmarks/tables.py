"""The tables and sentences of the docs, made from ``results.json``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from reprscope.models.labels import block_label
from reprscope.runtime.errors import UserError

from benchmarks.result import median
from benchmarks.storage import CONTIGUOUS, IMAGE, STORE

Results = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

_SECTION = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.S)


def fill(text: str, results: Results) -> str:
    """Put the sections of a page between their marks.

    Parameters
    ----------
    text : str
        Markdown with ``<!-- bench: NAME -->`` and ``<!-- end -->`` around each section.
    results : mapping
        Content of ``results.json``.

    Raises
    ------
    UserError
        If a page asks for a section that does not exist.
    """

    def section(found: re.Match[str]) -> str:
        name = found[2]
        if name not in SECTIONS:
            raise UserError(
                f"There is no section {name} of the benchmarks: use {', '.join(SECTIONS)}."
            )
        made = SECTIONS[name](results)
        return "".join([found[1], made, "\n" if made else "", found[3]])

    return _SECTION.sub(section, text)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _records(results: Results, name: str) -> Rows:
    found: Rows = results["measurements"].get(name, {}).get("records", [])
    return found


def _machine(results: Results) -> str:
    if "machine" not in results:
        return ""
    one = results["machine"]
    versions = one["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return (
        f"Measured on {one['processor']} ({one['instructions']}), {one['cores']} cores, "
        f"{one['threads']} threads, {one['memory_gb']:.0f} GB; the fastest precision there is "
        f"{one['reduced_precision']}. Versions: {libraries}."
    )


def _ratios(results: Results) -> str:
    rows = [
        (
            f"{ratio['name']}",
            ratio["against"],
            ratio["model"],
            _ratio(ratio["value"]),
            _aim(ratio["least"], ratio["most"]),
        )
        for name in ("engine", "peer", "matching", "early_exit", "linear", "memory")
        for ratio in results["measurements"].get(name, {}).get("ratios", [])
    ]
    return _table(["what", "against", "model", "ratio", "aim"], rows) if rows else ""


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _aim(least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f"at least {least:g}"
    return f"at most {most:g}" if least is None else f"{least:g} to {most:g}"


def _figure(results: Results) -> str:
    return "![Ratios, and the cost of a block](speed.svg)" if _ratios(results) else ""


def _spread(values: Sequence[float], scale: float) -> str:
    """Median of raw values, and the range they lie in."""
    middle, low, high = (scale * v for v in (median(list(values)), min(values), max(values)))
    digits = 2 if middle < 100 else 0
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def _engine(results: Results) -> str:
    rows = [
        (
            row["model"],
            row["precision"],
            row["what"],
            str(row["images"]),
            str(len(row["seconds"])),
            _spread(row["seconds"], 1000 / row["images"]),
        )
        for row in _records(results, "engine")
    ]
    columns = ["model", "precision", "what", "images", "runs", "ms an image (range)"]
    return _table(columns, rows) if rows else ""


def _peer(results: Results) -> str:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in _records(results, "peer"):
        key = tuple(row[name] for name in ("model", "positions", "who", "precision"))
        groups.setdefault(key, []).append(row)
    rows = []
    for key, found in groups.items():
        first = found[0]
        each = (
            f"{first['calls']} calls"
            if "calls" in first
            else f"{first['images']} images x {first['timesteps']} timesteps"
        )
        values = [row["seconds_per_image_and_timestep"] for row in found]
        rows.append((*key, f"{len(found)} x {each}", _spread(values, 1000)))
    columns = ["model", "positions", "who", "precision", "measured"]
    return _table([*columns, "ms an image and timestep (range)"], rows) if rows else ""


def _early_exit(results: Results) -> str:
    models: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in _records(results, "early_exit"):
        models.setdefault(row["model"], {})[row["position"]] = row
    if not models:
        return ""
    positions = dict.fromkeys(name for rows in models.values() for name in rows)
    rows = [
        (
            "the whole pass" if position == "whole" else block_label(position),
            *(
                f"{found[position]['share']:.0%}, "
                f"{_time(median(found[position]['seconds']) / found[position]['images'])}"
                for found in models.values()
            ),
        )
        for position in positions
    ]
    return _table(["up to", *(f"{model}, an image" for model in models)], rows)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _linear(results: Results) -> str:
    rows = [
        (
            f"{row['images']:,}",
            str(row["timesteps"]),
            str(row["shards"]),
            _spread(row["seconds"], 1000 / row["images"] / row["timesteps"]),
        )
        for row in _records(results, "linear")
    ]
    columns = ["images", "timesteps", "shards", "ms an image and timestep (range)"]
    return _table(columns, rows) if rows else ""


def _memory(results: Results) -> str:
    rows = [
        (
            f"{row['images']:,}",
            f"{row['peak_mb']:,.0f} MB",
            f"{row['started_mb']:,.0f} MB",
            f"{row['stored_mb']:,.0f} MB",
        )
        for row in _records(results, "memory")
    ]
    return _table(["images", "peak", "before the first batch", "stored"], rows) if rows else ""


def _matching(results: Results) -> str:
    rows = []
    for row in _records(results, "matching"):
        middle = median(row["seconds"])
        rows.append(
            (
                row["pairs_of"],
                "the loop" if row["what"] == "loop" else row["what"],
                "all" if row["pairs"] is None else f"{row['pairs']:,}",
                str(len(row["positions"])),
                f"{row['points']:,}",
                f"{middle:,.1f} s",
                f"{row['points'] / middle:,.0f}",
            )
        )
    columns = ["pairs", "who", "number", "positions", "keypoints", "time", "keypoints a second"]
    return _table(columns, rows) if rows else ""


def _storage(results: Results) -> str:
    parts = []
    models: dict[str, list[Mapping[str, Any]]] = {}
    for row in _records(results, "storage"):
        models.setdefault(row["model"], []).append(row)
    for model, rows in models.items():
        lines = [
            (
                _layout(row),
                f"{row['mb_per_image']:.3g}",
                *(f"{row[f'{run}_mb_per_s']:,.0f}" for run in _STORAGE_RUNS),
            )
            for row in rows
        ]
        columns = [f"{model}, {rows[0]['images']} images", "MB an image"]
        parts.append(_table([*columns, *_STORAGE_RUNS.values()], lines))
    return "\n\n".join(parts)


_STORAGE_RUNS: Final = {
    "write": "write",
    "in_order": "read in order",
    "single": "read single",
    "mean": "mean of a position",
}


def _layout(row: Mapping[str, Any]) -> str:
    if row["chunk"] == STORE:
        return STORE
    chunk = {IMAGE: "chunk of an image", CONTIGUOUS: "contiguous"}.get(
        row["chunk"], f"chunks of {row['chunk']} tokens"
    )
    said = [chunk, row["dtype"], row["compression"] or "not compressed"]
    said += ["shuffled"] * row["shuffle"] + ["no checksum"] * (not row["checksum"])
    return ", ".join(said)


def _readme(results: Results) -> str:
    found = {
        (name, ratio["name"], ratio["model"]): ratio["value"]
        for name, one in results["measurements"].items()
        for ratio in one["ratios"]
    }

    def value(measurement: str, part: str, model: str) -> str:
        for (name, what, whose), ratio in found.items():
            if name == measurement and part in what and whose == model:
                return _ratio(ratio)
        return ""

    one = results["machine"]
    fast = one["reduced_precision"]
    bare = value("engine", "float32", "sd-1.5")
    peer = value("peer", "all blocks, float32", "sd-1.5")
    lower = value("peer", f"all blocks, {fast}", "sd-1.5")
    middle = value("peer", f"mid_block, {fast}", "sd-1.5")
    pairs = value("matching", "SPair", "nano-sd")
    if not all((bare, peer, lower, middle, pairs)):
        return ""
    reduced = "" if fast == "float32" else f", {lower} times in {fast}"
    return (
        f"On {one['cores']} cores, full-width Stable Diffusion 1.5 with all blocks stored runs at "
        f"{bare} of the bare denoiser's throughput in float32, and {peer} times as fast as "
        f"sdhelper over the thesis' eleven timesteps{reduced} ({middle} times for `mid_block` "
        f"alone); correspondence is {pairs} times as fast as a loop over pairs."
    )


SECTIONS: Final[Mapping[str, Callable[[Results], str]]] = {
    "machine": _machine,
    "ratios": _ratios,
    "figure": _figure,
    "engine": _engine,
    "peer": _peer,
    "early_exit": _early_exit,
    "linear": _linear,
    "memory": _memory,
    "matching": _matching,
    "storage": _storage,
    "readme": _readme,
}
