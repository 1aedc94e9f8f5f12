"""Saving charts: Vega-Lite JSON, a page that needs no network, SVG and PNG, byte for byte alike.

Layers named ``hover_…`` hold invisible marks that only serve tooltips, one per token of a map;
they are left out of SVG and PNG.
"""

from __future__ import annotations

import html
import json
import re
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from reprscope.runtime.checksums import PLACE, fill
from reprscope.runtime.files import atomic, write_text

HOVER = "hover_"
PNG_SCALE = 2
_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
_ID = re.compile(r'\bid="([^"]+)"')

# Nothing but what the page itself holds may be loaded; Vega compiles its expressions.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


def save(chart: alt.TopLevelMixin, stem: Path, caption: str, provenance: str) -> None:
    """Write ``stem`` with the suffixes .json, .html, .svg and .png.

    Parameters
    ----------
    chart
        What a figure kind drew.
    caption : str
        Printed under the figure, read out in its place, and stored in every file.
    provenance : str
        What the figure was made from; stored in every file.
    """
    spec = specification(chart, caption=caption, provenance=provenance)
    marked = spec | {"usermeta": {**spec["usermeta"], "sha256": PLACE}}
    text = json.dumps(marked, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # What the report reads again; in the others a flipped bit shows, or is only seen.
    for suffix, checked in ((".json", text), (".svg", f"{svg(spec)}<!-- {PLACE} -->")):
        with atomic(stem.with_name(stem.name + suffix)) as part:
            part.write_text(f"{checked}\n", encoding="utf-8")
            fill(part)
    write_text(stem.with_name(stem.name + ".html"), page(spec, title=stem.name))
    with atomic(stem.with_name(stem.name + ".png")) as part:
        part.write_bytes(png(spec))


def specification(chart: alt.TopLevelMixin, *, caption: str, provenance: str) -> dict[str, Any]:
    """Vega-Lite specification of a chart, with what it shows and was made from.

    Charts name their views and parameters; Altair would number them through the life of a process.
    """
    spec: dict[str, Any] = chart.to_dict()
    spec["description"] = caption
    spec["usermeta"] = {
        **spec.get("usermeta", {}),
        "caption": caption,
        "provenance": provenance,
    }
    return spec


def static(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the specification without the marks that only serve tooltips."""
    return {
        key: [
            static(part) if isinstance(part, dict) else part
            for part in value
            if not (isinstance(part, dict) and str(part.get("name")).startswith(HOVER))
        ]
        if key in ("layer", "hconcat", "vconcat", "concat")
        else value
        for key, value in spec.items()
    }


def svg(spec: dict[str, Any]) -> str:
    """SVG of a specification, with caption and provenance inside."""
    text: str = vl_convert.vegalite_to_svg(static(spec), vl_version=_VERSION, allowed_base_urls=[])
    about = "".join(
        f"<{tag}>{html.escape(spec['usermeta'][key])}</{tag}>"
        for tag, key in (("desc", "caption"), ("metadata", "provenance"))
        if spec.get("usermeta", {}).get(key)
    )
    opening = text.index(">", text.index("<svg")) + 1
    return with_ids(text[:opening] + about + text[opening:], "g") + "\n"


def with_ids(text: str, prefix: str) -> str:
    """SVG whose ids are ``prefix`` and a number in order of appearance.

    Vega numbers clips and gradients through the life of a process, and two SVGs in one page must
    not share ids.
    """
    names = dict.fromkeys(_ID.findall(text))
    found = {old: f"{prefix}-{number}" for number, old in enumerate(names)}
    text = _ID.sub(lambda m: f'id="{found[m[1]]}"', text)
    text = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{found.get(m[1], m[1])})", text)
    return re.sub(r'href="#([^"]+)"', lambda m: f'href="#{found.get(m[1], m[1])}"', text)


def png(spec: dict[str, Any]) -> bytes:
    """PNG of a specification at twice its size, with caption and provenance as text chunks."""
    image: bytes = vl_convert.vegalite_to_png(
        static(spec), vl_version=_VERSION, scale=PNG_SCALE, allowed_base_urls=[]
    )
    end = image.rindex(b"IEND") - 4
    chunks = b"".join(
        _chunk(b"iTXt", keyword.encode() + b"\0\0\0\0\0" + spec["usermeta"][key].encode())
        for keyword, key in (("Description", "caption"), ("Source", "provenance"))
        if spec.get("usermeta", {}).get(key)
    )
    return image[:end] + chunks + image[end:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, for inlining in a page."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VERSION)
    return bundle.replace("</script", "<\\/script")


def inline_json(value: Any) -> str:
    """JSON that cannot end the ``<script>`` element it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def page(spec: dict[str, Any], *, title: str) -> str:
    """One HTML page with the interactive figure, its caption and provenance; loads nothing."""
    meta = spec.get("usermeta", {})
    caption, provenance = meta.get("caption", ""), meta.get("provenance", "")
    source = (
        f"<details><summary>Provenance</summary><pre>{html.escape(provenance)}</pre></details>"
        if provenance
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>
body {{ margin: 0 auto; padding: 1.5rem 1rem; max-width: max-content; color: #1d2329;
  font: 15px/1.5 "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }}
svg.marks, canvas.marks {{ display: block; }}
figure {{ margin: 0; }}
.scroll {{ overflow-x: auto; }}
figcaption, details {{ max-width: 46rem; margin-top: .75rem; }}
details {{ color: #5d6670; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; }}
</style>
</head>
<body>
<figure>
<div class="scroll"><div id="figure"></div></div>
<figcaption>{html.escape(caption)}</figcaption>
</figure>
{source}
<noscript>This figure needs JavaScript; the SVG beside this page does not.</noscript>
<script>{javascript()}</script>
<script type="application/json" id="spec">{inline_json(spec)}</script>
<script>
vegaEmbed("#figure", JSON.parse(document.getElementById("spec").textContent), {EMBED})
  .then(() => {{ document.documentElement.dataset.charts = "ready"; }});
</script>
</body>
</html>
"""


# "View source" and "open in editor" would leave the page.
EMBED = (
    '{"renderer":"svg","tooltip":{"theme":"light"},'
    '"actions":{"export":true,"source":false,"compiled":false,"editor":false}}'
)
