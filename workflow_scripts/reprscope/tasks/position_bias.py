"""Position bias: how often the most similar token of another image stands at the same place.

Two different images have little in common at one place, so that a match at the same place says that
their tokens hold the place itself, or something else that is tied to it. Two such things are told
apart:

Noise that all images share: the published method adds one noise map to all of them, and a token
that resembles its noise finds it again at the same place. The column ``noise`` tells measurements
under ``noise: shared`` from those with noise drawn for each image (``per_image``).

Content: the sky is above. ``content_only`` is the same share for the colours of the tokens' patches
(:mod:`reprscope.measures.patches`). And with ``mirrored``, every image is matched with its own
mirrored view: there the content of a token stands at the mirrored place, and what finds its own
place knows it although the content is elsewhere.

Rows and columns are told apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping  # Parameters needs it when they are built
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from reprscope.base.parameters import check_whole
from reprscope.base.seeds import item_seed
from reprscope.measures import patches, statistics
from reprscope.measures.similarity import nearest, normalise
from reprscope.models.labels import KEYS, block_label, in_network_order
from reprscope.representations.coordinates import token_centre, token_index
from reprscope.runtime.errors import UserError
from reprscope.tasks._findings import Findings, interval, of_blocks
from reprscope.tasks._pictures import encoded_picture, finite_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.representations.store import Representations

    Ints = NDArray[np.int64]

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"noise"})
TABLE_COLUMNS: Final = (
    "of",
    "axis",
    "noise",
    "within",
    "pairs",
    "share",
    "low",
    "high",
    "chance",
    "content_only",
    "above",
    "above_low",
    "above_high",
    "p",
    "correct",
    "difference",
    "difference_low",
    "difference_high",
)

DIFFERENCE: Final = ("difference", "difference_low", "difference_high")
AXES: Final = ("row", "column", "both")
FAR: Final = 0.25
"""Distance between a token's own place and its content's in the mirrored view, as a share of the
map, from which it counts: nearer ones are also hit by matches that miss the content a little."""

_KIND: Final = "position_bias"
_CELL: Final = ("position", "of", "axis", "within")
_COLOURS: Final = 6
"""Means and deviations, without their products: similarities are no linear maps."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Settings of the measure.

    Attributes
    ----------
    pairs
        Number of pairs of images, drawn at random; half of the images if there are fewer. Every
        image is in one pair at most, so that pairs do not depend on each other.
    seed
        Seed of the choice of pairs.
    within
        Distances, in tokens along each axis, up to which a match counts as the same place: 0 is the
        token itself, 1 also its eight neighbours.
    mirrored
        In what a mirrored view of the same images differs, for instance ``{"view": "mirrored",
        "seed": 1}``, with other noise; empty for none. Measured on the images of the pairs.
    """

    pairs: int = 100
    seed: int = 0
    within: tuple[int, ...] = (0, 1)
    mirrored: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "within", tuple(self.within))
        check_whole(self, "pairs")
        if not self.within or any(w < 0 for w in self.within):
            raise UserError(f"within is {list(self.within)}; list distances from 0, in tokens.")


def companions(parameters: Parameters) -> dict[str, Mapping[str, Any]]:
    """Return in what the mirrored view differs, if there is one."""
    return {"mirrored": parameters.mirrored} if parameters.mirrored else {}


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    noise: str = "per_image",
    companions: Mapping[str, Representations] | None = None,
    companion_protocols: Mapping[str, Mapping[str, str]] | None = None,
) -> pl.DataFrame:
    """Match all tokens of one image of each pair with those of the other, at every position.

    Parameters
    ----------
    representations
        Features of images whose token grids are alike.
    annotations
        The pictures, whose colours are the null. Any two images make a pair.
    parameters
        Settings of the measure.
    noise : {"per_image", "shared", "none"}
        How the protocol draws the noise; it is written to the rows.
    companions
        ``mirrored``, if the parameters name it.
    companion_protocols
        Not used.

    Returns
    -------
    One row for each position, ``of`` ("pairs", or "mirrored" for an image and its own mirrored
    view), pair, ``axis`` ("row", "column", "both") and distance: ``noise``, ``source_id``,
    ``target_id``, ``height`` and ``width`` (of the token grid), ``within`` (tokens), ``tokens``
    (number that counts), ``matches`` (tokens whose best match, by cosine similarity, is no further
    than ``within`` away from the token's own place along the axis, or along both), ``colours``
    (those of the colours of the patches, by the better of two similarities), ``chance`` (share of
    matches if they were uniformly random) and ``correct`` (tokens whose match is as close to the
    place of their content, in the mirrored view). In the mirrored view a token counts whose content
    stands :data:`FAR` away along the axis; an axis without such tokens has no row.

    Raises
    ------
    UserError
        If there are fewer than two images, the grids of a pair differ, an image has no mirrored
        view, or a feature is not finite.
    """
    pairs = chosen_pairs(representations.image_ids, parameters)
    other = (companions or {}).get("mirrored")
    comparisons = [("pairs", *pair, representations) for pair in pairs]
    if other is not None:
        known = set(other.image_ids)
        for image in sorted(image for pair in pairs for image in pair):
            if image not in known:
                raise UserError(f"{_KIND}: image '{image}' has no mirrored view; extract it too.")
            comparisons.append(("mirrored", image, image, other))
    seen: dict[tuple[Any, ...], list[Ints]] = {}
    rows = []
    for position in representations.positions:
        for of, source_id, target_id, held in comparisons:
            source = finite_tokens(representations, position, source_id, kind=_KIND)
            target = finite_tokens(held, position, target_id, kind=_KIND)
            if source.shape != target.shape:
                raise UserError(
                    f"position_bias: images '{source_id}' and '{target_id}' have unequal token "
                    "grids; use a view with `fit: pad` or `fit: squash`."
                )
            grid = (source.shape[0], source.shape[1])
            key = (of, source_id, target_id, grid)
            if key not in seen:
                seen[key] = _found_by_colours(
                    _colours(representations, annotations, source_id, grid),
                    _colours(held, annotations, target_id, grid),
                )
            content = None
            if of == "mirrored":
                content = _content(representations, held, source_id, grid)
            common = {
                "position": position,
                "of": of,
                "noise": noise,
                "source_id": source_id,
                "target_id": target_id,
                "height": grid[0],
                "width": grid[1],
            }
            found = _found(source, target)
            for within in parameters.within:
                counted = counts(found, seen[key], content, grid, within)
                rows += [common | {"within": within} | one for one in counted]
        logger.info("matched %d pairs at %s", len(comparisons), position)
    names = ("height", "width", "within", "tokens", "matches", "colours", "correct")
    return pl.DataFrame(
        rows, schema_overrides=dict.fromkeys(names, pl.Int32), infer_schema_length=None
    )


def counts(
    found: Ints, colours: list[Ints], content: Ints | None, grid: tuple[int, int], within: int
) -> list[dict[str, Any]]:
    """Columns of :func:`measure` for one pair, by axis.

    Parameters
    ----------
    found
        (2, h w) row and column that every token found.
    colours
        The same by colours, in several ways, of which the best counts.
    content
        (2, h w) row and column where its content stands, beyond the map if it is not shown; None
        if that is unknown.
    grid
        (h, w).
    within
        Tokens.
    """
    own = np.indices(grid).reshape(2, -1)
    result = []
    for axis in AXES:
        chosen = slice(None) if axis == "both" else slice(AXES.index(axis), AXES.index(axis) + 1)

        def away(place: Ints, goal: Ints, chosen: slice = chosen) -> NDArray[np.int64]:
            distance: NDArray[np.int64] = np.abs(place - goal)[chosen].max(axis=0)
            return distance

        counted = np.ones(own.shape[1], dtype=np.bool_)
        if content is not None:
            inside = ((content >= 0) & (content < np.array(grid)[:, None])).all(axis=0)
            least = np.maximum(2 * within + 1, FAR * np.array(grid))[chosen, None]
            counted = inside & (np.abs(content - own)[chosen] >= least).any(axis=0)
        if not counted.any():
            continue
        chance = np.ones(int(counted.sum()))
        for number, length in enumerate(grid):
            if axis != AXES[1 - number]:
                chance *= _close(own[number, counted], length, within)
        close = away(found, own) <= within
        row = {
            "axis": axis,
            "tokens": int(counted.sum()),
            "matches": int(close[counted].sum()),
            "colours": max(int((away(one, own) <= within)[counted].sum()) for one in colours),
            "chance": float(chance.mean()),
            "correct": None,
        }
        if content is not None:
            row["correct"] = int((away(found, content) <= within)[counted].sum())
        result.append(row)
    return result


def _close(place: Ints, length: int, within: int) -> NDArray[np.float64]:
    """Share of the places of an axis that are ``within`` of each of some."""
    first, last = np.maximum(place - within, 0), np.minimum(place + within, length - 1)
    share: NDArray[np.float64] = (last - first + 1) / length
    return share


def _colours(
    representations: Representations, annotations: Annotations, image: str, grid: tuple[int, int]
) -> NDArray[np.float32]:
    picture = encoded_picture(representations, annotations, image)
    return patches.colours(picture, grid)[..., :_COLOURS]


def _found_by_colours(source: NDArray[np.float32], target: NDArray[np.float32]) -> list[Ints]:
    """Row and column (2, h w) that every patch finds by its colours.

    Channels are standardised over both images. Matched are the patches of the highest cosine
    similarity, and those that differ least, as either may be the better reading of colours.
    """
    both = np.concatenate([source, target]).reshape(-1, source.shape[-1]).astype(np.float64)
    centre, deviation = both.mean(axis=0), both.std(axis=0)
    deviation[deviation == 0] = 1
    first, second = (((one - centre) / deviation).astype(np.float32) for one in (source, target))
    keys = second.reshape(-1, second.shape[-1])
    closest = [np.square(row[:, None] - keys).sum(axis=-1).argmin(axis=1) for row in first]
    return [
        _found(first, second),
        np.stack(np.divmod(np.concatenate(closest), target.shape[1])),
    ]


def _content(
    measured: Representations, mirrored: Representations, image: str, grid: tuple[int, int]
) -> Ints:
    """Row and column (2, h w) of each token's content in the mirrored view; -1 if not shown."""
    rows, cols = np.indices(grid).reshape(2, -1)
    centres = token_centre(rows, cols, measured.pixels(image), grid)
    pixels = mirrored.pixels(image)
    where = mirrored.transform(image).forward(measured.transform(image).back(centres))
    shown = ((where >= 0) & (where < pixels)).all(axis=-1)
    return np.where(shown, np.stack(token_index(where, pixels, grid)), -1)


def chosen_pairs(image_ids: list[str], parameters: Parameters) -> list[tuple[str, str]]:
    """Pairs of different images, each image in one pair at most.

    The choice depends on the seed and the set of names alone.

    Raises
    ------
    UserError
        If there are fewer than two images.
    """
    names = sorted(image_ids)
    if len(names) < 2:
        raise UserError("position_bias compares images, but there is only one; use more images.")
    rng = np.random.default_rng(item_seed("position_bias", parameters.seed))
    order = [names[i] for i in rng.permutation(len(names))]
    count = min(parameters.pairs, len(names) // 2)
    return list(zip(order[: 2 * count : 2], order[1 : 2 * count : 2], strict=True))


def _found(source: NDArray[np.float32], target: NDArray[np.float32]) -> Ints:
    """Row and column (2, h w) of the best match of every token."""
    channels = source.shape[2]
    found, _ = nearest(
        normalise(source).reshape(-1, channels), normalise(target).reshape(-1, channels)
    )
    return np.stack(np.divmod(found, target.shape[1]))


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Share of matches at the same place over pairs, beside what colours and chance give.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns
    -------
    ``position``, ``of``, ``axis``, ``noise``, ``within``, ``pairs`` (for "mirrored": images),
    ``share`` (mean over pairs), ``low``, ``high``, ``chance``; ``content_only``, the share of
    colours, ``above``, the difference to it, ``above_low``, ``above_high``; ``p``, of the one-sided
    tests over pairs that the share is above neither chance nor ``content_only``, the larger of the
    two; ``of_pair``, the share of each pair; ``correct``, for "mirrored", the share that is at the
    place of the content.
    """
    rows = []
    for group in measurements.partition_by(_CELL, maintain_order=True):
        tokens, matches, colours = (
            group[name].to_numpy() for name in ("tokens", "matches", "colours")
        )
        share, chance = matches / tokens, group["chance"].to_numpy()
        columns = np.stack([share, share - colours / tokens, share - chance], axis=1)
        estimate = statistics.mean(columns)
        found, above = estimate.share(), estimate.interval()
        correct = group["correct"]
        rows.append(
            {name: group[name][0] for name in (*_CELL[:3], "noise", "within")}
            | {"pairs": len(group), "share": found.value[0], "low": found.low[0]}
            | {"high": found.high[0], "chance": chance.mean()}
            | {"content_only": (colours / tokens).mean(), "above": above.value[1]}
            | {"above_low": above.low[1], "above_high": above.high[1]}
            | {"p": estimate.p_value(alternative="greater")[1:].max()}
            | {"of_pair": share.tolist()}
            | {"correct": None if correct.has_nulls() else (correct.to_numpy() / tokens).mean()}
        )
    table = pl.DataFrame(
        rows,
        schema_overrides={"within": pl.Int32, "pairs": pl.Int32, "correct": pl.Float64},
        infer_schema_length=None,
    )
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))


def relate(table: pl.DataFrame, parameters: Mapping[str, Parameters]) -> pl.DataFrame:
    """What noise shared by all images changes on the same pairs.

    Parameters
    ----------
    table
        Summaries of all measurements, with what they were measured under.
    parameters
        Not used.

    Returns
    -------
    The table without ``of_pair``, with ``difference``, ``difference_low`` and ``difference_high``
    in rows whose ``noise`` is ``shared``: their share less that of the row that differs in the
    protocol alone and has noise of its own for each image, and its 95 % t interval over pairs. Null
    without such a row, or if there are several.
    """
    keys = [name for name in (*KEYS, *_CELL[1:]) if name in table.columns and name != "protocol"]
    alone = table.filter(noise="per_image").select(*keys, alone="of_pair")
    alone = alone.unique(keys, keep="none", maintain_order=True)
    shared = table.with_row_index("row").filter(noise="shared")
    both = shared.join(alone, on=keys, nulls_equal=True, maintain_order="left").filter(
        pl.col("of_pair").list.len() == pl.col("alone").list.len()
    )
    found: dict[str, list[float | None]] = {name: [None] * len(table) for name in DIFFERENCE}
    for row, one, other in both.select("row", "of_pair", "alone").iter_rows():
        bounds = statistics.mean((np.array(one) - np.array(other))[:, None]).interval()
        for name, bound in zip(DIFFERENCE, bounds, strict=True):
            found[name][row] = None if np.isnan(bound[0]) else float(bound[0])
    return table.drop("of_pair").with_columns(
        pl.Series(name, values, dtype=pl.Float64) for name, values in found.items()
    )


def findings(table: pl.DataFrame) -> Findings:
    """What shared noise makes of the bias, and which blocks find places without it.

    The first describes. What is found without shared noise, and in the mirrored view, are families
    of one-sided tests for rows and columns of all blocks and timesteps, adjusted by Holm.
    """
    within = table["within"].min()
    rows = of_blocks(table.filter(pl.col("within") == within))
    own = rows.filter(pl.col("noise") == "per_image")
    sentences = []
    for model in rows["model"].unique(maintain_order=True).to_list():
        of_model = rows.filter(pl.col("model") == model, of="pairs", axis="both")
        sentences += _of_shared_noise(of_model, model)
        for of in ("pairs", "mirrored"):
            tried = own.filter(pl.col("model") == model, pl.col("axis") != "both", of=of)
            sentences += _without_shared_noise(tried, model, of)
    return Findings(sentences, own if len(own) else None)


def _of_shared_noise(rows: pl.DataFrame, model: str) -> list[str]:
    """Where shared noise makes the largest difference on these pairs; none without both."""
    keys = ["dataset", "view", "resolution", "prompt", "timestep", "seed", "position"]
    both = rows.filter(noise="shared").join(
        rows.filter(noise="per_image"),
        on=[key for key in keys if key in rows.columns],
        suffix="_alone",
        nulls_equal=True,
    )
    if both.is_empty():
        return []
    most = both.sort(pl.col("share_alone") - pl.col("share"), maintain_order=True).row(
        0, named=True
    )
    return [
        f"{model}: at t = {most['timestep']}, {_share(most)} of the tokens in "
        f"{block_label(most['position'])} find their own place in another image if both have "
        f"the same noise, and {_share(most, '_alone')} if each has its own "
        f"(chance {100 * most['chance']:.2g} %), the largest difference of {len(both)} on these "
        f"{most['pairs']} pairs."
    ]


def _without_shared_noise(tried: pl.DataFrame, model: str, of: str) -> list[str]:
    """Blocks whose tokens find their row and column more often than colours and chance."""
    tests = int(tried["p"].count())
    if not tests:
        return []
    adjusted = statistics.holm(tried["p"].cast(pl.Float64).to_numpy())
    firm = tried.filter(pl.Series(adjusted < statistics.SIGNIFICANT))
    parts = []
    for axis in tried["axis"].unique(maintain_order=True).to_list():
        names = [block_label(p) for p in in_network_order(firm.filter(axis=axis)["position"])]
        parts.append(f"{axis} in {', '.join(names) if names else 'no block'}")
    units = "pairs" if of == "pairs" else "images"
    where = (
        "in another image"
        if of == "pairs"
        else "in the mirrored image, where their content stands elsewhere,"
    )
    return [
        f"{model}, noise of its own for each image: tokens find their own place {where} more often "
        f"than by chance and by colours, the {' and the '.join(parts)} (at some timestep; "
        f"one-sided t-tests over {tried['pairs'][0]} {units}, {tests} tests, Holm)."
    ]


def _share(row: dict[str, Any], suffix: str = "") -> str:
    return interval(*(row[name + suffix] for name in ("share", "low", "high")))
