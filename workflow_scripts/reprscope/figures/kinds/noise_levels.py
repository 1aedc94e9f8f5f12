"""Decoded latents of one image in a row, from little to much noise (thesis, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from reprscope.figures import frames
from reprscope.figures.maps import Picture, Text, canvas, photo_url
from reprscope.figures.theme import Theme

GAP = 6
LARGEST = 150
KEYS = ("model", "image_id", "timestep")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the pictures show.

    Parameters
    ----------
    filter : mapping of column to value or list of values
        Rows to draw.
    title : str
        Title of the figure.
    """

    filter: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


def needs(options: Options) -> list[str]:
    """Columns that the figure needs."""
    return [*KEYS, "image_id", "mixing", "png"]


def _rows(table: pl.DataFrame, options: Options) -> pl.DataFrame:
    rows = frames.select(table, options.filter, needs(options))
    frames.one_row_per(rows, KEYS)
    return rows


def draw(table: pl.DataFrame, options: Options, theme: Theme) -> alt.TopLevelMixin:
    """Draw a row for each model and image, a column for each timestep.

    Raises
    ------
    UserError
        If a column is missing, or several rows fall on one picture.
    """
    rows = _rows(table, options)
    timesteps = sorted(frames.distinct(rows, "timestep"))
    groups = rows.select("model", "image_id").unique(maintain_order=True).rows()
    side = min(LARGEST, (theme.width - GAP * (len(timesteps) - 1)) / len(timesteps))
    left = {timestep: number * (side + GAP) for number, timestep in enumerate(timesteps)}
    pictures: list[Picture] = []
    texts: list[Text] = []
    y = 0.0
    for model, image_id in groups:
        if len(groups) > 1:
            y += theme.font_size + 4
            texts.append(Text(x=0, y=y, text=f"{model}, {image_id}", align="left", bold=True))
        y += theme.font_size + 6
        texts += [Text(x=x + side / 2, y=y - 4, text=f"t = {t}") for t, x in left.items()]
        here = rows.filter((pl.col("model") == model) & (pl.col("image_id") == image_id))
        for row in here.iter_rows(named=True):
            url, ratio = photo_url(row["png"], side)
            pictures.append(
                Picture(
                    x=left[row["timestep"]],
                    y=y,
                    width=side,
                    height=side * ratio,
                    url=url,
                    tooltip={key: str(row[key]) for key in KEYS},
                )
            )
        y = max(picture.y + picture.height for picture in pictures) + 8
    return canvas(
        pictures,
        texts,
        width=round(left[timesteps[-1]] + side),
        height=round(y),
        theme=theme,
        formats={},
        title=options.title,
    )


def caption(table: pl.DataFrame, options: Options) -> str:
    """Say what is shown, of how many images and models, and under which conditions."""
    rows = _rows(table, options)
    images, models = rows["image_id"].n_unique(), rows["model"].n_unique()
    where = frames.conditions(rows)
    published = rows["mixing"].unique().to_list() == ["published"]
    what = (
        "Latents and noise mixed linearly, as in the thesis' figure and not as a denoiser is given "
        "them,"
        if published
        else "What a denoiser is given: latents with the noise that the model's own schedule adds "
        "at a timestep,"
    )
    return (
        f"{what} decoded by its VAE, for {images} image{'s' * (images != 1)} and "
        f"{models} model{'s' * (models != 1)}{f' ({where})' if where else ''}."
    )
