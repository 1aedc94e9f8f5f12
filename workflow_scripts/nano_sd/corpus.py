"""Training pictures: menagerie images of one seed as arrays that are mapped, not loaded."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reprscope.runtime.files import write_text
from tqdm import tqdm

logger = logging.getLogger(__name__)

#: Training pictures have this seed; evaluation pictures have any other.
TRAINING_SEED = 0
#: Seed of the held-out pictures that training is judged by.
HELD_OUT_SEED = 1
#: Side of a training picture in pixels.
SIDE = 128


@dataclass(frozen=True)
class Corpus:
    """Pictures with their captions.

    Attributes
    ----------
    images : (count, side, side, 3) uint8
        Read only, mapped from disk.
    captions : list of str
        One per picture; none names left or right, so that a mirrored picture keeps its caption.
    kinds : list of str
        One per picture.
    """

    images: NDArray[np.uint8]
    captions: list[str]
    kinds: list[str]


def caption_words() -> list[str]:
    """Every word a menagerie caption can hold, sorted."""
    from reprscope.data.synthetic.coats import COLOURS, PATTERNS
    from reprscope.data.synthetic.creatures import KINDS
    from reprscope.data.synthetic.scenery import GROUNDS

    # A plain coat has no word; pictures without a ground are "on white".
    words = {"a", "an", "on", "white", *KINDS, *COLOURS, *GROUNDS, *PATTERNS}
    return sorted(words - {"plain"})


def _draw(task: tuple[int, int, int]) -> tuple[NDArray[np.uint8], str, str]:
    from reprscope.data.synthetic.scenes import render

    seed, index, side = task
    scene = render(seed, index, size=side)
    return scene.image, scene.caption, scene.kind


def load_or_render(
    folder: Path, *, seed: int, count: int, side: int = SIDE, threads: int = 2
) -> Corpus:
    """Read the first ``count`` pictures of a seed, rendering those that are not there yet.

    Parameters
    ----------
    folder : Path
        Holds ``seed-{seed}.npy`` and ``seed-{seed}.json`` (captions and kinds, written last, so
        that an interrupted rendering starts again).
    seed, count, side : int
        Which pictures: indices ``0 .. count - 1`` of ``seed``, ``side`` pixels square.
    threads : int
        Rendering processes.
    """
    pixels, notes = folder / f"seed-{seed}.npy", folder / f"seed-{seed}.json"
    if notes.exists():
        written = json.loads(notes.read_text(encoding="utf-8"))
        images = np.load(pixels, mmap_mode="r")
        if len(written["captions"]) >= count and images.shape[1] == side:
            return Corpus(images[:count], written["captions"][:count], written["kinds"][:count])
    folder.mkdir(parents=True, exist_ok=True)
    notes.unlink(missing_ok=True)
    images = np.lib.format.open_memmap(
        pixels, mode="w+", dtype=np.uint8, shape=(count, side, side, 3)
    )
    captions: list[str] = []
    kinds: list[str] = []
    # The renderer is single-threaded numpy; BLAS pools in the workers would only fight for cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Spawned, not forked: the parent may already run torch's thread pool.
    with multiprocessing.get_context("spawn").Pool(threads) as pool:
        drawn = pool.imap(_draw, ((seed, index, side) for index in range(count)), chunksize=20)
        for index, (image, caption, kind) in enumerate(
            tqdm(drawn, total=count, desc=f"render seed {seed}", mininterval=5)
        ):
            images[index] = image
            captions.append(caption)
            kinds.append(kind)
    images.flush()
    write_text(notes, json.dumps({"captions": captions, "kinds": kinds}))
    logger.info("rendered %d pictures of seed %d", count, seed)
    return Corpus(np.load(pixels, mmap_mode="r"), captions, kinds)
