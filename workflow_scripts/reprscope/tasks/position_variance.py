"""Position variance: how much of the variance of tokens their place explains.

The closed form beside the position probes: without training, without a penalty, and with a value
that is 0 without an effect (:mod:`reprscope.measures.place_variance`). Rows and columns are told
apart; the rest of what place explains is their interaction. A picture is not alike everywhere, so
that content alone has a share as well: the same is computed of what is left of the tokens when
everything linear in the colours of their patches (:mod:`reprscope.measures.patches`) is removed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.base.seeds import item_seed
from reprscope.measures import patches, place_variance, statistics
from reprscope.measures.place_variance import AXES
from reprscope.models.labels import in_network_order
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import CONDITION, Findings, interval, told_apart, where
from reprscope.tasks._pictures import encoded_picture, finite_tokens

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final[frozenset[str]] = frozenset()
TABLE_COLUMNS: Final = (
    "removed",
    "axis",
    "height",
    "width",
    "channels",
    "images",
    "share",
    "low",
    "high",
    "p",
)

REMOVED: Final = ("nothing", "colours")
_KIND: Final = "position_variance"
_VALUES: Final = ("cross", "square", "mean_cross", "p")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the measure.

    Attributes
    ----------
    count
        Number of images, the first in the order of their drawn names; 0 for all. All tokens of one
        position are held in memory.
    draws
        Draws of signs for the p-values.
    seed
        Seed of the draws and of the choice of images.
    """

    count: int = 0
    draws: int = place_variance.DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "count", least=0)
        check_whole(self, "draws")


def measure(
    representations: Representations, annotations: Annotations, parameters: Parameters
) -> pl.DataFrame:
    """Compute what the shares follow from, image by image, at every position.

    Parameters
    ----------
    representations
        Features of at least three images whose token grids are alike.
    annotations
        The pictures, whose colours are removed.
    parameters
        Settings of the measure.

    Returns ------- One row for each position, ``removed`` ("nothing", or what is linear in
    "colours" of the patches), ``axis`` ("row", "column", or "place" for both with their
    interaction) and image: ``image_id``, ``height``, ``width``, ``channels``, and ``cross``,
    ``square``, ``mean_cross`` (see :func:`reprscope.measures.place_variance.share`); ``p``, of the
    test that the axis explains nothing, is the same for all images.

    Raises
    ------
    UserError
        If there are fewer than three images, token grids differ, or a feature is not finite.
    """
    images = sorted(representations.image_ids)
    if parameters.count:
        drawn = sorted(images, key=lambda name: item_seed(_KIND, parameters.seed, name))
        images = sorted(drawn[: parameters.count])
    if len(images) < 3:
        raise UserError(
            f"{_KIND}: {len(images)} images cannot tell place from chance; use three or more."
        )
    content: dict[tuple[int, int], NDArray[np.float32]] = {}
    frames = []
    for position in representations.positions:
        tokens = _all_tokens(representations, position, images)
        grid = (tokens.shape[1], tokens.shape[2])
        if grid not in content:
            pictures = (encoded_picture(representations, annotations, one) for one in images)
            content[grid] = np.stack([patches.colours(one, grid) for one in pictures])
        for removed in REMOVED:
            values = (
                tokens if removed == "nothing" else place_variance.without(tokens, content[grid])
            )
            found = place_variance.products(values)
            for axis in AXES:
                gram = found.axes[axis]
                rng = np.random.default_rng(item_seed(_KIND, parameters.seed, position, axis))
                columns: dict[str, Any] = {
                    "position": position,
                    "removed": removed,
                    "axis": axis,
                    "image_id": images,
                    "height": grid[0],
                    "width": grid[1],
                    "channels": tokens.shape[3],
                    "cross": place_variance.others(gram),
                    "square": found.square,
                    "mean_cross": place_variance.others(found.mean),
                    "p": place_variance.sign_flip_p(gram, draws=parameters.draws, rng=rng),
                }
                frames.append(pl.DataFrame(columns))
        logger.info("%s: %d images", position, len(images))
    whole = dict.fromkeys(("height", "width", "channels"), pl.Int32)
    return pl.concat(frames).cast(whole | dict.fromkeys(_VALUES, pl.Float64))  # type: ignore[arg-type]


def _all_tokens(
    representations: Representations, position: str, images: list[str]
) -> NDArray[np.float32]:
    """Tokens (images, h, w, channels), each channel less its mean in the first image."""
    first = finite_tokens(representations, position, images[0], kind=_KIND)
    centre = first.mean(axis=(0, 1))
    result = np.empty((len(images), *first.shape), np.float32)
    for number, image in enumerate(images):
        tokens = finite_tokens(representations, position, image, kind=_KIND)
        if tokens.shape != first.shape:
            raise UserError(
                f"{_KIND}: image '{image}' has {tokens.shape[0]} x {tokens.shape[1]} tokens at "
                f"{position}, others have {first.shape[0]} x {first.shape[1]}; use a view with "
                "`fit: pad` or `fit: squash`."
            )
        result[number] = tokens - centre
    return result


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Share of the variance that each axis explains, with its interval over images.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns
    -------
    ``position``, ``removed``, ``axis``, ``height``, ``width``, ``channels``, ``images``, ``share``
    (of the variance summed over channels; unbiased, so that it may be below 0), ``low``, ``high``
    (95 %, jackknife over images) and ``p``, of the one-sided test that it is 0, by flipping the
    signs of images.
    """
    rows = []
    for group in measurements.partition_by("position", "removed", "axis", maintain_order=True):
        arrays = (group[name].to_numpy() for name in ("cross", "square", "mean_cross"))
        found = place_variance.share(*arrays).interval()
        names = ("position", "removed", "axis", "height", "width", "channels")
        rows.append(
            {name: group[name][0] for name in names}
            | {"images": len(group), "share": found.value[0], "low": found.low[0]}
            | {"high": found.high[0], "p": group["p"][0]}
        )
    whole = dict.fromkeys(("height", "width", "channels", "images"), pl.Int32)
    bounds = ["share", "low", "high"]
    return pl.DataFrame(rows, schema_overrides=whole).with_columns(pl.col(bounds).fill_nan(None))


def findings(table: pl.DataFrame) -> Findings:
    """What place explains where it explains most, and in how many layers it explains anything.

    The first describes: nothing is chosen on other images. The second is a family of tests, rows
    and columns of all layers and timesteps of a condition, adjusted by Holm. It is not told in how
    many layers place explains what colours do not, since content that is a curve of colours, or of
    those of other patches, is not removed with them.
    """
    keys = ["model", *(column for column in CONDITION if column in table.columns)]
    parts = table.partition_by(keys, maintain_order=True)
    conditions = pl.concat([part.head(1) for part in parts]) if parts else table.clear()
    sentences, rows = [], []
    for part, under in zip(parts, told_apart(conditions), strict=True):
        name = f"{part['model'][0]}{under}"
        of_place = part.filter(removed="nothing", axis="place").drop_nulls("share")
        if of_place.is_empty():
            continue
        rank = {one: i for i, one in enumerate(in_network_order(of_place["position"]))}
        most = of_place.sort(
            -pl.col("share"), pl.col("position").replace_strict(rank), maintain_order=True
        ).row(0, named=True)
        here = part.filter(position=most["position"], timestep=most["timestep"])
        shares = {
            (row["removed"], row["axis"]): interval(row["share"])
            for row in here.iter_rows(named=True)
        }
        place = where(most["position"], most["timestep"])
        sentences.append(
            f"{name} on {most['dataset']}: place explains {shares['nothing', 'place']} of the "
            f"variance of tokens in {place}, the highest of {len(of_place)} on these "
            f"{most['images']} images (rows {shares['nothing', 'row']}, columns "
            f"{shares['nothing', 'column']}); of what is left without what is linear in the "
            "colours of their patches and in products of them, "
            f"{shares['colours', 'place']} (rows {shares['colours', 'row']}, columns "
            f"{shares['colours', 'column']})."
        )
        tried = part.filter(pl.col("removed") == "nothing", pl.col("axis") != "place")
        tried = tried.with_columns(adjusted=statistics.holm(tried["p"].to_numpy()))
        rows.append(tried)
        if most["images"] >= statistics.FEWEST_UNITS:
            sentences.append(_known_effects(tried, name))
    return Findings(sentences, pl.concat(rows) if rows else None)


def _known_effects(tried: pl.DataFrame, name: str) -> str:
    """In how many layers rows and columns explain something, be it by content or by position."""
    counts = []
    for axis in AXES[:2]:
        of = tried.filter(axis=axis)
        known = int((of["adjusted"] < statistics.SIGNIFICANT).sum())
        counts.append(f"{axis}s in {known} of {len(of)} layers")
    return (
        f"{name}: tokens depend on their place, by position or by what is shown there: "
        f"{' and '.join(counts)} (signs of {tried['images'][0]} images flipped, "
        f"{len(tried)} tests, Holm)."
    )
