"""Charts of small tables, and what is drawn in them."""

import base64
import io
import itertools

import numpy as np
from PIL import Image
from reprscope import figures
from reprscope.figures import render
from reprscope.figures.theme import Theme

from support import tables

KINDS = {
    "at_a_glance": tables.glance,
    "block_bars": tables.probe,
    "block_differences": tables.differences,
    "block_table": tables.probe,
    "degradation_lines": tables.degraded,
    "gains": tables.gains,
    "group_table": tables.groups,
    "lines_by_alpha": tables.over_alphas,
    "lines_by_threshold": tables.search,
    "lines_by_layer": tables.layers,
    "lines_by_timestep": tables.correspondence,
    "offset_maps": tables.offsets,
    "histograms": tables.histograms,
    "noise_levels": tables.noise_levels,
    "norm_maps": tables.norms,
    "position_maps": tables.predicted_places,
    "position_similarity": tables.places,
    "similarity_maps": tables.similarity,
    "token_maps": tables.tokens,
    "transfer_maps": tables.transfers,
}


def draw(kind, table=None, theme=None, **options):
    module = figures.load(kind)
    table = KINDS[kind]() if table is None else table
    chosen = module.Options(**options)
    chart = module.draw(table, chosen, theme or Theme())
    return render.specification(chart, caption=module.caption(table, chosen), provenance="spec {1}")


def marks(spec, kind):
    """All unit specs of one mark, with the data each draws."""
    return _walk(spec, spec["datasets"], kind, None)


def _walk(part, datasets, kind, data):
    data = part.get("data", data)
    found = []
    for key in ("layer", "hconcat", "vconcat", "concat"):
        for child in part.get(key, []):
            found += _walk(child, datasets, kind, data)
    mark = part.get("mark")
    if mark and (mark if isinstance(mark, str) else mark["type"]) == kind:
        found.append((part, datasets[data["name"]]))
    return found


def image_at(row):
    head, body = row["url"].split(",", 1)
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))


def hover(spec):
    found = [
        rows for part, rows in marks(spec, "rect") if part.get("name", "").startswith("hover_")
    ]
    return list(itertools.chain(*found))
