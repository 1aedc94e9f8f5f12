"""Random images like photographs, and small datasets of them in canonical form."""

import numpy as np
import polars as pl


def smooth_image(width: int, height: int, seed: int) -> np.ndarray:
    """A photograph-like random image: a few low frequencies per channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [
        sum(np.sin(2 * np.pi * (f * x + g * y) + p) for f, g, p in rng.uniform(-3, 3, (4, 3)))
        for _ in range(3)
    ]
    return np.clip(127.5 + 32 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def image_frame(sizes: list[tuple[int, int]], **columns) -> pl.DataFrame:
    """An ``images`` frame of smooth images of the given (width, height)."""
    from reprscope.data.canonical import IMAGES_SCHEMA, encode_png

    count = len(sizes)
    values = {
        "image_id": [f"image-{i}" for i in range(count)],
        "image": [encode_png(smooth_image(w, h, i)) for i, (w, h) in enumerate(sizes)],
        "width": [w for w, _ in sizes],
        "height": [h for _, h in sizes],
        "label": [None] * count,
        "caption": [None] * count,
        "split": ["test"] * count,
    }
    return pl.DataFrame(values | columns, schema=IMAGES_SCHEMA)
