"""Norm of anomalous tokens over the layers, relative to their map.

Thesis, figure 24, and the bottom row of the paper's figure 2. Patches are found at one position, by
a robust rule or a file of labels (:mod:`reprscope.anomalies`), and followed through all layers: the
mean norm of a patch's tokens over the mean norm of all tokens of its map. The published curves rest
on labels by hand; their bands are one standard deviation of the labels, here 95 % intervals of the
mean, from resamples of the images.

Where patches are found by their norm, the norm is high there by selection. The token of the highest
norm of every image is measured beside them, found at the same position without a threshold: it is
there in a model without anomalies, and says how far selection alone goes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.anomalies import (
    PATCHES,
    Detection,
    deciding,
    find,
    maps,
    norm_map,
    patch_means,
    scores,
)
from reprscope.findings import CONDITION, Findings
from reprscope.labels import block_label
from reprscope.metrics import ratios
from reprscope.parameters import check_whole
from reprscope.seeds import item_seed
from reprscope.tasks._pictures import finite_tokens, frame

if TYPE_CHECKING:
    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()

GROUPS: Final = ("anomalies", "highest norm")
LABELLED: Final = "labels"
"""Stands in the column ``detected`` for a position if patches were labelled by hand."""

_SCHEMA: Final = {
    "position": pl.String,
    "group": pl.String,
    "detected": pl.String,
    **PATCHES,
    "relative_norm": pl.Float64,
    "provenance": pl.String,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters(Detection):
    """Settings of the task, beside those of the detection.

    Attributes
    ----------
    bootstrap
        Number of resamples of the images for the 95 % intervals.
    seed
        Seed of the resamples.
    """

    bootstrap: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "bootstrap")


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Find the patches of all images and measure their norm at every position.

    Parameters
    ----------
    representations
        Features of the images.
    annotations
        Not used.
    parameters
        How patches are found.

    Returns
    -------
    One row for each patch and position: ``position``, ``group`` (``anomalies`` or ``highest norm``,
    the token of the highest norm of each image), ``detected`` (position that decided, or
    ``labels``), ``image_id``, ``row``, ``col`` on a grid of ``height`` x ``width`` tokens,
    ``score`` (null for labels), ``relative_norm``, ``provenance`` (what a file of labels states).
    And one row for each image, with null ``position`` and ``group``, and the grid.

    Raises
    ------
    UserError
        If patches cannot be found as the parameters say, or a feature is not finite.
    """
    images = sorted(representations.image_ids)
    anomalies = find(representations, parameters, images, kind="anomalies")
    highest = _highest(representations, parameters, images)
    patches = pl.concat(
        [
            anomalies.with_columns(group=pl.lit(GROUPS[0])),
            highest.with_columns(group=pl.lit(GROUPS[1])),
        ]
    )
    groups = patches.sort("image_id", maintain_order=True).partition_by(
        "image_id", "group", maintain_order=True
    )
    detected = deciding(representations, parameters, kind="anomalies")
    if parameters.labels is not None:
        detected = LABELLED
    common = {"detected": detected, "provenance": representations.origin}
    frames = [frame(_SCHEMA, **highest.select("image_id", "height", "width").to_dict(), **common)]
    for position in representations.positions:
        relative = []
        image, norms = None, np.empty((0, 0))
        for found in groups:
            if found["image_id"][0] != image:
                image = found["image_id"][0]
                norms = norm_map(finite_tokens(representations, position, image, kind="anomalies"))
            relative.append(patch_means(norms, found) / norms.mean())
        frames.append(
            frame(
                _SCHEMA,
                **pl.concat(groups).to_dict(),
                position=position,
                relative_norm=np.concatenate(relative),
                **common,
            )
        )
        log.info("measured %d anomalies at %s", len(anomalies), position)
    return pl.concat(frames)


def _highest(
    representations: Representations, parameters: Parameters, images: list[str]
) -> pl.DataFrame:
    """Patch of the highest norm of every image."""
    rows: list[tuple[Any, ...]] = []
    for image, norms in maps(representations, parameters, images, kind="anomalies"):
        row, col = divmod(int(norms.argmax()), norms.shape[1])
        rows.append((image, row, col, *norms.shape, float(scores(norms)[row, col])))
    return pl.DataFrame(rows, schema=PATCHES, orient="row")


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Relative norm at each position and group, with 95 % bootstrap intervals over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the task.

    Returns
    -------
    ``position``, ``group``, ``detected``, ``images`` (with a patch of the group), ``all_images``,
    ``image_share``, ``patches``, ``patch_share`` (of all tokens of the grid), ``relative_norm``
    (mean over patches; null if there are none), ``low``, ``high``. All positions and groups are
    scored on the same resamples of the images.
    """
    images = measurements.filter(pl.col("position").is_null()).sort("image_id")
    rows = measurements.filter(pl.col("position").is_not_null())
    positions = rows["position"].unique(maintain_order=True).to_list()
    tokens = int((images["height"] * images["width"]).sum())
    place = {name: number for number, name in enumerate(images["image_id"])}
    at = {name: number for number, name in enumerate(positions)}
    frames = []
    for group in GROUPS:
        found = rows.filter(pl.col("group") == group)
        # Not a polars sum, whose order, and so its last bit, may depend on the threads.
        cell = np.array(
            [place[i] * len(at) + at[p] for i, p in found.select("image_id", "position").rows()],
            dtype=np.int64,
        )
        numerator, denominator = (
            np.bincount(cell, weights=weights, minlength=len(place) * len(at)).reshape(-1, len(at))
            for weights in (found["relative_norm"].to_numpy(), None)
        )
        bounds = ratios(
            numerator,
            denominator,
            replicates=parameters.bootstrap,
            seed=item_seed("anomalies", parameters.seed),
        )
        patches = int(denominator[:, 0].sum())
        with_patch = int((denominator[:, 0] > 0).sum())
        frames.append(
            pl.DataFrame(
                {
                    "position": positions,
                    "group": group,
                    "detected": images["detected"][0],
                    "images": pl.Series([with_patch] * len(positions), dtype=pl.Int32),
                    "all_images": pl.Series([len(images)] * len(positions), dtype=pl.Int32),
                    "image_share": with_patch / len(images),
                    "patches": pl.Series([patches] * len(positions), dtype=pl.Int32),
                    "patch_share": patches / tokens,
                    "relative_norm": bounds.value,
                    "low": bounds.low,
                    "high": bounds.high,
                }
            ).with_columns(pl.col("relative_norm", "low", "high").fill_nan(None))
        )
    return pl.concat(frames)


def findings(table: pl.DataFrame) -> Findings:
    """How many anomalies each model has, and in which layer they stand out the most."""
    keys = [c for c in ("model", *CONDITION, "timestep", "group") if c in table.columns]
    best = table.sort("relative_norm", descending=True, nulls_last=True, maintain_order=True)
    best = best.unique(keys, keep="first", maintain_order=True)
    order = table.select(keys).unique(maintain_order=True)
    best = order.join(best, on=keys, how="left", maintain_order="left", nulls_equal=True)
    return Findings([_sentence(row) for row in best.iter_rows(named=True)], best)


def _sentence(row: dict[str, Any]) -> str:
    labelled = row["detected"] == LABELLED
    place = "" if labelled else f" in {block_label(row['detected'])}"
    where = f"{row['model']}{place} at t = {row['timestep']} ({row['dataset']}, {row['protocol']})"
    if not row["patches"]:
        return f"No token of {where} is anomalous, in {row['all_images']} images."
    value = f"{row['relative_norm']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    reach = f"{value} times the mean of the map in {block_label(row['position'])}"
    if row["group"] == GROUPS[0]:
        how = "labelled by hand" if labelled else "found"
        return (
            f"{row['patches']} anomalous patches ({100 * row['patch_share']:.2f} %) in "
            f"{row['images']} of {row['all_images']} images were {how} for {where}; their norm is "
            f"at most {reach}."
        )
    return f"The token of the highest norm of each image of {where} reaches {reach}."
