"""Small tables in the form that tasks produce, for tests of figures and of the report."""

import io
import math

import numpy as np
import polars as pl
from PIL import Image

BLOCKS = [
    "conv_in",
    *(f"down_blocks.{i}" for i in range(4)),
    "mid_block",
    *(f"up_blocks.{i}" for i in range(4)),
    "conv_out",
]
MODELS = ["nano-sd", "nano-sd-untrained"]
STEPS = [0, 50, 100, 200, 400, 800]
GRIDS = dict(zip(BLOCKS, [16, 8, 4, 2, 2, 2, 4, 8, 16, 16, 16], strict=True))


def keys(model: str, timestep: int, position: str) -> dict:
    return {
        "dataset": "menagerie",
        "view": "identity",
        "model": model,
        "resolution": 128,
        "prompt": "empty",
        "timestep": timestep,
        "seed": 42,
        "protocol": "standard",
        "position": position,
    }


def probe() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for model in MODELS:
        for position in reversed(BLOCKS):
            for split in ("validation", "test"):
                accuracy = float(rng.uniform(0.1, 0.9))
                interval = {"low": accuracy - 0.03, "high": accuracy + 0.03}
                counts = {"split": split, "classes": 10, "images": 360, "chance": 0.1}
                rows.append(keys(model, 50, position) | counts | {"accuracy": accuracy} | interval)
    return pl.DataFrame(rows)


LAYERS = [
    "conv_in",
    *(f"down_blocks.{i}.{part}" for i in range(4) for part in ("resnets.0", "downsamplers.0")),
    *(f"mid_block.{part}" for part in ("resnets.0", "attentions.0", "resnets.1")),
    *(f"up_blocks.{i}.{part}" for i in range(4) for part in ("resnets.0", "attentions.0")),
    "conv_out",
]


def layers() -> pl.DataFrame:
    """A value for each layer and model, about 1, in an order that is not the network's."""
    rng = np.random.default_rng(5)
    rows = []
    for model in MODELS:
        for position in reversed(LAYERS):
            accuracy = float(np.exp(rng.normal(-1, 0.4)))
            interval = {"low": accuracy - 0.03, "high": accuracy + 0.03}
            counts = {"images": 100, "grid": 8, "chance": 0.125}
            rows.append(keys(model, 50, position) | counts | {"accuracy": accuracy} | interval)
    return pl.DataFrame(rows)


def correspondence() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    fixed = {
        "random": 0.02,
        "same_position": 0.055,
        "same_place_in_square": 0.06,
        "same_place_in_box": 0.21,
    }
    rows = []
    for model in MODELS:
        for timestep in reversed(STEPS):
            for position in BLOCKS:
                for alpha in (0.05, 0.1):
                    for average in ("point", "pair"):
                        values = {"cosine": float(rng.uniform(0, 0.5))} | {
                            name: value * alpha / 0.1 for name, value in fixed.items()
                        }
                        for estimator, pck in values.items():
                            rows.append(
                                keys(model, timestep, position)
                                | {
                                    "split": "test",
                                    "estimator": estimator,
                                    "alpha": alpha,
                                    "average": average,
                                    "points": 2711,
                                    "pairs": 300,
                                    "pck": pck,
                                    "low": pck - 0.01,
                                    "high": pck + 0.01,
                                }
                            )
    return pl.DataFrame(rows)


def over_alphas() -> pl.DataFrame:
    """PCK of one timestep at many alphas, of points alone."""
    one = correspondence().filter(timestep=STEPS[0], alpha=0.1, average="point")
    parts = [
        one.with_columns(pl.col("pck", "low", "high") * alpha / 0.1, alpha=pl.lit(alpha))
        for alpha in (0.02, 0.05, 0.1, 0.15)
    ]
    return pl.concat(parts)


def picture(width: int = 24, height: int = 16, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def similarity(models=MODELS, images: int = 2, scale: int = 1) -> pl.DataFrame:
    """Maps with values that differ from token to token, so that a transposed map shows."""
    rng = np.random.default_rng(2)
    frames = []
    for model in models:
        for number in range(images):
            place = {"reference_x": 0.3 + 0.2 * number, "reference_y": 0.7}
            common = {"image_id": f"menagerie-{number:05d}", **place}
            image = {"kind": "image", "png": picture(seed=number)}
            frames.append(pl.DataFrame([keys(model, 50, "image") | common | image]))
            for position, grid in GRIDS.items():
                h, w = grid * scale, (grid + 1) * scale
                rows, cols = np.indices((h, w)).reshape(2, -1)
                tokens = pl.DataFrame(
                    {"row": rows, "col": cols, "similarity": rng.uniform(-0.35, 1, h * w)}
                ).sample(fraction=1, shuffle=True, seed=3)
                frames.append(
                    tokens.with_columns(
                        **{k: pl.lit(v) for k, v in (keys(model, 50, position) | common).items()},
                        kind=pl.lit("map"),
                    )
                )
    return pl.concat(frames, how="diagonal_relaxed")


def tokens(positions=("up_blocks.0", "up_blocks.1"), models=MODELS, images: int = 1):
    rng = np.random.default_rng(4)
    frames = []
    for model in models:
        for number in range(images):
            name = {"image_id": f"menagerie-{number:05d}"}
            image = {"kind": "image", "png": picture(16, 16, number)}
            frames.append(pl.DataFrame([keys(model, 50, "image") | name | image]))
            for position in positions:
                grid = GRIDS[position]
                rows, cols = np.indices((grid, grid)).reshape(2, -1)
                colours = rng.uniform(0, 1, (3, grid * grid))
                frames.append(
                    pl.DataFrame(
                        {
                            "row": rows,
                            "col": cols,
                            "cluster": rng.integers(0, 6, grid * grid),
                            "norm": rng.uniform(3, 90, grid * grid),
                            "red": colours[0],
                            "green": colours[1],
                            "blue": colours[2],
                        }
                    ).with_columns(
                        **{k: pl.lit(v) for k, v in (keys(model, 50, position) | name).items()},
                        kind=pl.lit("map"),
                    )
                )
    return pl.concat(frames, how="diagonal_relaxed")


def offsets(positions=BLOCKS, models=MODELS[:1], steps=(50, 200)) -> pl.DataFrame:
    """Errors by offset on 5 x 5 cells of 8 px, and by distance; corners have too few points."""
    rng = np.random.default_rng(5)
    rows = []
    for model in models:
        for timestep in steps:
            for position in positions:
                for of in ("prediction", "target"):
                    common = keys(model, timestep, position) | {"split": "test", "of": of}
                    rows += [
                        common
                        | {
                            "kind": "offset",
                            "x": 8.0 * x,
                            "y": 8.0 * y,
                            "cell": 8.0,
                            "points": 5 if abs(x) == abs(y) == 2 else 100,
                            "error_rate": float(rng.uniform(0.2, 0.6)),
                        }
                        for x in range(-2, 3)
                        for y in range(-2, 3)
                    ]
                    rows.append(common | {"kind": "whole", "points": 1000, "error_rate": 0.4})
    return pl.DataFrame(rows)


VARIANTS = ("class-prompt", "flipped", "seeds-averaged")


def gains() -> pl.DataFrame:
    """The plain task, and variants of it whose gains differ by block."""
    rng = np.random.default_rng(6)
    rows = []
    for model in MODELS:
        for task in ("plain", *VARIANTS):
            for position in BLOCKS:
                for split in ("validation", "test"):
                    # up_blocks.1 is best on the validation split, up_blocks.2 on the test split.
                    peak = "up_blocks.1" if split == "validation" else "up_blocks.2"
                    score = 0.5 if position == peak else float(rng.uniform(0.1, 0.4))
                    gain = float(rng.uniform(-0.02, 0.04))
                    common = keys(model, 50, position) | {
                        "task": task,
                        "split": split,
                        "alpha": 0.1,
                        "average": "point",
                        "points": 2711,
                        "pairs": 300,
                    }
                    own = {"estimator": "cosine", "pck": score + gain}
                    none = dict.fromkeys(
                        ("gain", "gain_low", "gain_high", "gain_p", "gain_p_holm", "gains_tried")
                    )
                    if task == "plain":
                        rows.append(common | own | none)
                        continue
                    found = {"gain": gain, "gain_low": gain - 0.01, "gain_high": gain + 0.01}
                    # Gains with standard errors of half a point, of which 18 were tried.
                    p = math.erfc(abs(gain) / 0.005 / 2**0.5)
                    found |= {"gain_p": p, "gain_p_holm": min(18 * p, 1.0), "gains_tried": 18}
                    rows.append(common | own | found)
                    rows.append(common | {"estimator": "plain", "pck": score} | none)
    return pl.DataFrame(rows, infer_schema_length=None)


def norms(models=MODELS, steps=(0, 50)) -> pl.DataFrame:
    """Maps of one image and their mean over all, at three positions."""
    rng = np.random.default_rng(6)
    frames = []
    for model in models:
        for step in steps:
            image = {"kind": "image", "image_id": "menagerie-00000", "png": picture(20, 16)}
            frames.append(pl.DataFrame([keys(model, step, "image") | image]))
            for position in ("up_blocks.1", "conv_in", "mid_block"):
                grid = GRIDS[position]
                rows, cols = np.indices((grid, grid + 1)).reshape(2, -1)
                for kind, further in (
                    ("map", {"image_id": "menagerie-00000"}),
                    ("mean", {"images": 40}),
                ):
                    frames.append(
                        pl.DataFrame(
                            {"row": rows, "col": cols, "norm": rng.uniform(3, 90, len(rows))}
                        ).with_columns(
                            **{
                                name: pl.lit(value)
                                for name, value in (keys(model, step, position) | further).items()
                            },
                            kind=pl.lit(kind),
                        )
                    )
    return pl.concat(frames, how="diagonal_relaxed")


def histograms() -> pl.DataFrame:
    """Cells of a grid of 10 x 8, of which some are empty, over norms that differ by position."""
    rng = np.random.default_rng(7)
    rows = []
    for position in ("mid_block", "conv_in", "up_blocks.1"):
        for step in (0, 50):
            scale = float(rng.uniform(5, 100))
            for i, j in np.ndindex(10, 8):
                if rng.uniform() < 0.2:
                    continue
                cell = {
                    "similarity": -1 + i / 5,
                    "similarity_end": -1 + (i + 1) / 5,
                    "norm": scale * (1 + j),
                    "norm_end": scale * (2 + j),
                    "share": float(10 ** rng.uniform(-6, -1)),
                }
                counts = {"images": 40, "tokens": 2000}
                rows.append(keys("nano-sd", step, position) | cell | counts)
    return pl.DataFrame(rows)


def glance() -> pl.DataFrame:
    """Similarity to two tokens of one image, and norms."""
    frames = []
    for task, x in (("corner", 0.0), ("middle", 0.5)):
        table = similarity(models=["nano-sd"], images=1)
        frames.append(
            table.with_columns(
                task=pl.lit(task),
                reference_x=pl.lit(x),
                reference_y=pl.lit(x),
                norm=pl.when(pl.col("kind") == "map").then(pl.col("similarity") * 30 + 50),
                similarity=pl.col("similarity") * (1 - x),
            )
        )
    return pl.concat(frames)


def search() -> pl.DataFrame:
    rng = np.random.default_rng(6)
    rows = []
    for model in MODELS:
        for split in ("validation", "test"):
            for step in range(15):
                for score in ("precision", "recall", "F1"):
                    value = float(rng.uniform(0.1, 0.9))
                    rows.append(
                        keys(model, 50, "up_blocks.1.resnets.2")
                        | {"split": split, "threshold": round(0.7 + 0.02 * step, 2)}
                        | {"score": score, "value": value}
                        | {"low": value - 0.05, "high": value + 0.05, "chosen": step == 7}
                        | {"images": 72, "tokens": 31, "patches": 19}
                    )
    return pl.DataFrame(rows)


def degraded() -> pl.DataFrame:
    """Accuracy by block under two degradations, in steps."""
    rng = np.random.default_rng(8)
    views = ["identity", *(f"{name}-{step}" for name in ("bgr", "blur") for step in (1, 2, 3))]
    rows = []
    for view in views:
        for position in BLOCKS:
            value = float(rng.uniform(0.3, 0.9))
            counts = {"kind": "score", "images": 40, "tokens": 2560}
            bounds = {"low": value - 0.02, "high": value + 0.02, "chance": 0.01}
            rows.append(
                keys("nano-sd", 50, position) | {"view": view, "accuracy": value} | counts | bounds
            )
    return pl.DataFrame(rows)


def transfers() -> pl.DataFrame:
    """Maps of one image found in its mirror image, at two blocks, with its picture."""
    rng = np.random.default_rng(9)
    names = {"image_id": "menagerie-00000", "source_id": "menagerie-00000"}
    sizes = {"width": 64, "height": 64, "source_width": 64, "source_height": 64, "mirrored": True}
    pictures = {"png": picture(64, 64), "source_png": picture(64, 64)}
    rows = [keys("nano-sd", 50, "image") | names | {"kind": "image"} | sizes | pictures]
    for position in ("mid_block", "up_blocks.1"):
        grid = GRIDS[position]
        for row, col in np.ndindex(grid, grid):
            place = {"row": row, "col": col, "source_rows": grid, "source_cols": grid}
            found = {"source_row": row, "source_col": int(rng.integers(grid))}
            true = {"expected_x": 1 - (col + 0.5) / grid, "expected_y": (row + 0.5) / grid}
            values = {"similarity": float(rng.uniform()), "error": float(rng.uniform(0, 32))}
            values["percentile"] = float(rng.uniform())
            common = keys("nano-sd", 50, position) | names | {"kind": "map"}
            rows.append(common | place | found | true | values)
    return pl.DataFrame(rows, infer_schema_length=None)


def places() -> pl.DataFrame:
    """Similarity of all tokens to each of a grid of places, on empty images."""
    rows = []
    for position, size in (("mid_block", 2), ("up_blocks.0", 4)):
        for there in np.ndindex(size, size):
            for here in np.ndindex(size, size):
                near = 1 / (1 + np.hypot(here[0] - there[0], here[1] - there[1]))
                rows.append(
                    keys("nano-sd", 50, position)
                    | {"reference_row": there[0], "reference_col": there[1]}
                    | {"row": here[0], "col": here[1], "similarity": float(near), "images": 20}
                )
    return pl.DataFrame(rows)


def predicted_places(models=MODELS[:1], positions=("mid_block", "up_blocks.0")) -> pl.DataFrame:
    """Places of the tokens of an image on maps that are wider than high, and some scores."""
    rng = np.random.default_rng(11)
    frames = []
    for model in models:
        name = {"image_id": "menagerie-00000", "split": "test"}
        image = keys(model, 50, "image") | name | {"kind": "image", "png": picture(24, 16)}
        score = keys(model, 50, "mid_block") | {"kind": "score", "split": "test", "accuracy": 0.5}
        frames += [pl.DataFrame([score]), pl.DataFrame([image])]
        for position in positions:
            shape = (GRIDS[position], GRIDS[position] + 2)
            rows, cols = np.indices(shape).reshape(2, -1)
            for estimator in ("classification", "regression"):
                found = [rng.integers(0, length, len(rows)).astype(float) for length in shape]
                if estimator == "regression":
                    found = [axis + rng.normal(0, 0.4, len(rows)) for axis in (rows, cols)]
                tokens = pl.DataFrame({"row": rows, "col": cols}).with_columns(
                    predicted_row=pl.Series(found[0]), predicted_col=pl.Series(found[1])
                )
                common = keys(model, 50, position) | name | {"kind": "map", "estimator": estimator}
                frames.append(
                    tokens.sample(fraction=1, shuffle=True, seed=3).with_columns(
                        pl.lit(value).alias(key) for key, value in common.items()
                    )
                )
    return pl.concat(frames, how="diagonal_relaxed")


def differences() -> pl.DataFrame:
    """Position bias with noise shared by all images and with noise drawn for each."""
    rng = np.random.default_rng(10)
    rows = []
    for protocol, noise in (("standard", "per_image"), ("shared-noise", "shared")):
        for timestep in (50, 500):
            for position in BLOCKS:
                share = float(rng.uniform(0.05, 0.9))
                moved = share - 0.4 if noise == "shared" else None
                rows.append(
                    keys("nano-sd", timestep, position)
                    | {"protocol": protocol, "noise": noise, "share": share, "chance": 0.01}
                    | {"difference": moved}
                    | {"difference_low": None if moved is None else moved - 0.03}
                    | {"difference_high": None if moved is None else moved + 0.03}
                    | {"low": share - 0.02, "high": share + 0.02, "pairs": 100, "within": 0}
                )
    return pl.DataFrame(rows)


def noise_levels() -> pl.DataFrame:
    """Pictures of two images at three timesteps."""
    return pl.DataFrame(
        keys("nano-sd", timestep, "image")
        | {
            "image_id": f"creature-{image}",
            "mixing": "schedule",
            "png": picture(64, 64, timestep + image),
        }
        for image in range(2)
        for timestep in (0, 400, 999)
    )


def groups() -> pl.DataFrame:
    """PCK of categories and of two difficulties, at one timestep."""
    rng = np.random.default_rng(7)
    parts = {"category": ["cat", "cow", "giraffe"], "viewpoint": ["easy", "medium", "hard"]}
    rows = []
    for model in MODELS:
        for position in reversed(BLOCKS):
            for estimator in ("cosine", "same_place_in_box", "same_place_in_square"):
                for by, values in parts.items():
                    for value in ("all", *values):
                        pck = float(rng.uniform(0, 0.6))
                        if estimator != "cosine":
                            pck = (0.2 if estimator.endswith("box") else 0.1) + 0.01 * len(value)
                        rows.append(
                            keys(model, 50, position)
                            | {"split": "test", "estimator": estimator, "alpha": 0.1}
                            | {"by": by, "value": value, "average": "point", "points": 900}
                            | {"pairs": 120 if value == "all" else 40, "images": 60}
                            | {"pck": pck, "low": pck - 0.02, "high": pck + 0.02}
                        )
    return pl.DataFrame(rows)
