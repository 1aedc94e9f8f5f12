"""Position bias: how often the most similar token of another image stands at the same place.

Two different images have little in common at one place, so that a match at the same place says that
their tokens hold the place itself, or something else that is tied to it. Noise that all images
share is such a thing: the published method adds one noise map to all of them, and a token that
resembles its noise finds it again at the same place. Under a protocol with noise drawn for each
image (``per_image``) what is left is position that the model encodes; the difference to the same
measurement under ``noise: shared`` is the part of a position bias that the shared map makes.

The column ``noise`` of the table tells the two apart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from reprscope.errors import UserError
from reprscope.findings import Findings, interval, of_blocks
from reprscope.labels import block_label, in_network_order
from reprscope.metrics import accuracy
from reprscope.parameters import check_whole
from reprscope.seeds import item_seed
from reprscope.similarity import nearest, normalise
from reprscope.tasks._pictures import finite_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reprscope.data.canonical import Annotations
    from reprscope.store import Representations

NEEDS: Final[frozenset[str]] = frozenset()
STORES: Final = frozenset({"tokens"})
PROTOCOL: Final = frozenset({"noise"})

log = logging.getLogger(__name__)


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
    bootstrap
        Number of resamples of the pairs for the 95 % intervals.
    """

    pairs: int = 100
    seed: int = 0
    within: tuple[int, ...] = (0, 1)
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        # A study's list becomes a tuple here, so that parameters stay hashable.
        object.__setattr__(self, "within", tuple(self.within))
        check_whole(self, "pairs", "bootstrap")
        if not self.within or any(w < 0 for w in self.within):
            raise UserError(f"within is {list(self.within)}; list distances from 0, in tokens.")


def measure(
    representations: Representations,
    annotations: Annotations,
    parameters: Parameters,
    *,
    noise: str = "per_image",
) -> pl.DataFrame:
    """Match all tokens of one image of each pair with those of the other, at every position.

    Parameters
    ----------
    representations
        Features of images whose token grids are alike.
    annotations
        Not used: any two images make a pair.
    parameters
        Settings of the measure.
    noise : {"per_image", "shared", "none"}
        How the protocol draws the noise; it is written to the rows.

    Returns
    -------
    One row for each position, pair and distance: ``position``, ``noise``, ``source_id``,
    ``target_id``, ``height`` and ``width`` (of the token grid), ``within`` (tokens), ``tokens``
    (number of the source), ``matches`` (tokens whose best match, by cosine similarity, is no
    further than ``within`` rows and columns away from the token's own place), ``chance`` (share of
    matches if they were uniformly random).

    Raises
    ------
    UserError
        If there are fewer than two images, the grids of a pair differ, or a feature is not finite.
    """
    pairs = chosen_pairs(representations.image_ids, parameters)
    rows = []
    for position in representations.positions:
        for source_id, target_id in pairs:
            source, target = (
                finite_tokens(representations, position, image, kind="position_bias")
                for image in (source_id, target_id)
            )
            if source.shape != target.shape:
                raise UserError(
                    f"position_bias: images '{source_id}' and '{target_id}' have unequal token "
                    "grids; use a view with `fit: pad` or `fit: squash`."
                )
            grid = source.shape[:2]
            distance = _distances(source, target)
            rows += [
                {
                    "position": position,
                    "noise": noise,
                    "source_id": source_id,
                    "target_id": target_id,
                    "height": grid[0],
                    "width": grid[1],
                    "within": within,
                    "tokens": distance.size,
                    "matches": int((distance <= within).sum()),
                    "chance": chance(grid, within),
                }
                for within in parameters.within
            ]
        log.info("matched %d pairs at %s", len(pairs), position)
    whole = dict.fromkeys(("height", "width", "within", "tokens", "matches"), pl.Int32)
    return pl.DataFrame(rows, schema_overrides=whole)


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


def _distances(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows or columns, whichever are more, from each token's place to that of its best match."""
    height, width, channels = source.shape
    found, _ = nearest(
        normalise(source).reshape(-1, channels), normalise(target).reshape(-1, channels)
    )
    away = np.stack(np.divmod(found, width)) - np.indices((height, width)).reshape(2, -1)
    distance: NDArray[np.int64] = np.abs(away).max(axis=0)
    return distance


def chance(grid: tuple[int, int], within: int) -> float:
    """Share of tokens that a uniformly random match would put ``within`` tokens of their place."""
    share = 1.0
    for length in grid:
        place = np.arange(length)
        first, last = np.maximum(place - within, 0), np.minimum(place + within, length - 1)
        share *= float((last - first + 1).mean()) / length
    return share


def summarise(measurements: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Share of matches at the same place, with its 95 % bootstrap interval over pairs.

    Parameters
    ----------
    measurements
        What :func:`measure` returns.
    parameters
        Settings of the measure.

    Returns
    -------
    ``position``, ``noise``, ``within``, ``pairs``, ``share`` (mean over pairs), ``low``, ``high``,
    ``chance``. All positions are resampled alike, and so are the protocols and timesteps of an
    experiment, whose pairs are the same.
    """
    keys = measurements.select("position", "within").unique(maintain_order=True)
    first = measurements.unique(["position", "within"], keep="first", maintain_order=True)
    groups = measurements.partition_by("position", "within", maintain_order=True)
    shares = np.stack([g["matches"].to_numpy() / g["tokens"].to_numpy() for g in groups], axis=1)
    bounds = accuracy(
        shares, replicates=parameters.bootstrap, seed=item_seed("position_bias", "bootstrap")
    )
    return keys.with_columns(
        noise=first["noise"],
        pairs=pl.lit(len(shares), pl.Int32),
        share=pl.Series(bounds.value),
        low=pl.Series(bounds.low),
        high=pl.Series(bounds.high),
        chance=pl.Series([float(g["chance"].to_numpy().mean()) for g in groups]),
    ).select(
        *("position", "noise", "within", "pairs", "share", "low", "high", "chance"),
    )


def findings(table: pl.DataFrame) -> Findings:
    """Where shared noise makes most of the bias, and where position remains without it."""
    within = table["within"].min()
    rows = of_blocks(table.filter(pl.col("within") == within))
    keys = [
        *("dataset", "view", "model", "resolution", "prompt", "timestep", "seed"),
        *("position", "within"),
    ]
    keys = [key for key in keys if key in rows.columns]
    both = (
        rows.filter(pl.col("noise") == "shared")
        .join(
            rows.filter(pl.col("noise") == "per_image"), on=keys, suffix="_alone", nulls_equal=True
        )
        .with_columns(
            gain=pl.col("share") - pl.col("share_alone"),
            lift=pl.col("share_alone") / pl.col("chance"),
        )
    )
    sentences = []
    for model in both["model"].unique(maintain_order=True).to_list():
        of_model = both.filter(pl.col("model") == model)
        most = of_model.sort("gain", descending=True, maintain_order=True).row(0, named=True)
        sentences.append(
            f"{model}: at t = {most['timestep']}, {_share(most)} of the tokens in "
            f"{block_label(most['position'])} find their own place in another image if both have "
            f"the same noise, and {_share(most, '_alone')} if each has its own "
            f"(chance {100 * most['chance']:.2g} %)."
        )
        real = of_model.filter(pl.col("low_alone") > 2 * pl.col("chance"))
        names = [block_label(p) for p in in_network_order(real["position"])]
        if names:
            sentences.append(
                f"{model}: with noise of its own for each image, the place is found at more than "
                f"twice chance in {', '.join(names)}."
            )
    return Findings(sentences, both)


def _share(row: dict[str, float], suffix: str = "") -> str:
    return interval(*(row[name + suffix] for name in ("share", "low", "high")))
