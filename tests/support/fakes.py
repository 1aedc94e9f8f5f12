"""In-memory stand-ins for the stores that tasks read."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from reprscope.representations.coordinates import Affine


@dataclass
class FakeRepresentations:
    """Token grids (h, w, channels) by position and image."""

    grids: dict[str, dict[str, np.ndarray]]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    transforms: dict[str, Affine] = field(default_factory=dict)
    reads: list[tuple[str, str]] = field(default_factory=list)
    origin: str = "0123456789abcdef"
    view: dict[str, Any] = field(default_factory=lambda: {"fit": "keep"})
    resolution: int = 0
    offsets: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def positions(self) -> list[str]:
        return list(self.grids)

    @property
    def image_ids(self) -> list[str]:
        return list(next(iter(self.grids.values())))

    def offset(self, position: str) -> tuple[float, float]:
        return self.offsets.get(position, (0.0, 0.0))

    def tokens(self, position: str, image_id: str) -> np.ndarray:
        self.reads.append((position, image_id))
        return self.grids[position][image_id].astype(np.float32)

    def layout(self, position: str) -> tuple[int, np.dtype]:
        first = next(iter(self.grids[position].values()))
        return first.shape[-1], np.dtype(np.float32)

    def grid(self, position: str, image_id: str) -> tuple[int, int]:
        height, width = self.grids[position][image_id].shape[:2]
        return height, width

    def read_tokens(self, position: str, image_ids: list[str], out: np.ndarray) -> None:
        maps = [self.tokens(position, image_id) for image_id in image_ids]
        out[:] = np.concatenate([one.reshape(-1, one.shape[-1]) for one in maps])

    def means(self, position: str) -> np.ndarray:
        return np.stack(
            [grid.astype(np.float32).mean(axis=(0, 1)) for grid in self.grids[position].values()]
        )

    def pixels(self, image_id: str) -> tuple[int, int]:
        return self.sizes[image_id]

    @property
    def viewed(self) -> dict[str, Any]:
        resolution = self.resolution or max(max(size) for size in self.sizes.values())
        return {"view": self.view, "resolution": resolution, "multiple": 1}

    def transform(self, image_id: str) -> Affine:
        return self.transforms.get(image_id, Affine())


@dataclass
class FakeAnnotations:
    """Frames with the columns of the canonical dataset that a test needs."""

    image_frame: pl.DataFrame
    pair_frame: pl.DataFrame | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    keypoint_frame: pl.DataFrame | None = None
    depths: dict[str, np.ndarray] = field(default_factory=dict)

    def images(self) -> pl.DataFrame:
        return self.image_frame

    def pairs(self) -> pl.DataFrame:
        assert self.pair_frame is not None
        return self.pair_frame

    def keypoints(self) -> pl.DataFrame:
        assert self.keypoint_frame is not None
        return self.keypoint_frame

    def image(self, image_id: str) -> np.ndarray:
        return self.pictures[image_id]

    def depth(self, image_id: str) -> np.ndarray:
        return self.depths[image_id]


def pair(pair_id: str, source: str, target: str, **changes: Any) -> dict[str, Any]:
    """Row of pairs.parquet with one keypoint, for 100 x 100 px images."""
    return {
        "pair_id": pair_id,
        "split": "test",
        "category": "cat",
        "source_id": source,
        "target_id": target,
        "keypoints": ["nose"],
        "source_xy": [[50.0, 50.0]],
        "target_xy": [[50.0, 50.0]],
        "source_box": [0.0, 0.0, 100.0, 100.0],
        "target_box": [0.0, 0.0, 100.0, 100.0],
        "viewpoint_variation": 0,
        "scale_variation": 1,
        "truncation": 2,
        "occlusion": 3,
    } | changes
