"""Image operations and the coordinate maps that go with them.

A *view* is a chain of operations on the original image, followed by the fit to the resolution at
which the image is encoded. Every geometric operation returns the exact map of pixel coordinates
that it performed, so that keypoints follow the image in float, without rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reprscope.base.seeds import item_seed
from reprscope.data.pictures import decode_picture
from reprscope.representations.coordinates import Affine
from reprscope.runtime.errors import UserError

Image = NDArray[np.uint8]
Fit = Literal["pad", "squash", "keep"]


def hflip(image: Image) -> tuple[Image, Affine]:
    """Mirror left and right."""
    return image[:, ::-1], Affine(scale_x=-1.0, offset_x=float(image.shape[1]))


def crop(
    image: Image, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> tuple[Image, Affine]:
    """Cut pixels off each side."""
    height, width = image.shape[:2]
    if min(left, top, right, bottom) < 0 or left + right >= width or top + bottom >= height:
        raise UserError(
            f"crop of ({left}, {top}, {right}, {bottom}) leaves nothing of an image of "
            f"{width} x {height} pixels: cut off less."
        )
    cut = image[top : height - bottom, left : width - right]
    return cut, Affine(offset_x=-float(left), offset_y=-float(top))


def pad(
    image: Image, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> tuple[Image, Affine]:
    """Add pixels on each side by repeating the edge."""
    wide = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
    return wide, Affine(offset_x=float(left), offset_y=float(top))


def shift(image: Image, *, x: int = 0, y: int = 0) -> tuple[Image, Affine]:
    """Move the content by whole pixels to the right and down, repeating the edge."""
    height, width = image.shape[:2]
    rows = np.clip(np.arange(height) - y, 0, height - 1)
    cols = np.clip(np.arange(width) - x, 0, width - 1)
    return image[rows][:, cols], Affine(offset_x=float(x), offset_y=float(y))


def rescale(image: Image, *, width: int, height: int) -> tuple[Image, Affine]:
    """Resize to an exact size (bicubic, antialiased)."""
    from PIL import Image as Pictures

    size = (image.shape[1], image.shape[0])
    if size == (width, height):
        return image, Affine()
    picture = Pictures.fromarray(image).resize((width, height), Pictures.Resampling.BICUBIC)
    return np.asarray(picture), Affine(scale_x=width / size[0], scale_y=height / size[1])


def channel_mix(image: Image, *, amount: float) -> tuple[Image, Affine]:
    """Blend from RGB (``amount`` 0) to BGR (``amount`` 1)."""
    return _blend(image, image[..., ::-1], amount), Affine()


def blur(image: Image, *, radius: float) -> tuple[Image, Affine]:
    """Gaussian blur with a standard deviation of ``radius`` pixels."""
    from PIL import Image as Pictures
    from PIL import ImageFilter

    blurred = Pictures.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred), Affine()


def overlay(image: Image, *, amount: float, texture: str) -> tuple[Image, Affine]:
    """Blend from the image (``amount`` 0) to a texture (``amount`` 1).

    Parameters
    ----------
    image : array, (height, width, 3)
    amount : float
        In [0, 1].
    texture : str
        One of :data:`TEXTURES`, scikit-image's grey pictures of 512 x 512 pixels, or the path of
        an image file, whose colours are kept. The texture lies in the upper left corner in its own
        pixels; what goes beyond the image is cut off, and a smaller one is repeated.
    """
    tile = _texture(texture)
    rows, cols = (np.arange(size) % tile.shape[axis] for axis, size in enumerate(image.shape[:2]))
    return _blend(image, tile[rows][:, cols], amount), Affine()


def pixel_noise(
    image: Image, *, amount: float, seed: int = 0, image_id: str
) -> tuple[Image, Affine]:
    """Blend from the image (``amount`` 0) to uniform noise of pixels and channels (``amount`` 1).

    The noise depends on ``seed``, the image's name and its size, and not on ``amount``, so that a
    stronger step has more of the same noise.
    """
    rng = np.random.default_rng(item_seed("pixel_noise", seed, image_id))
    noise = rng.integers(0, 256, image.shape, dtype=np.uint8)
    return _blend(image, noise, amount), Affine()


def _blend(image: Image, other: Image, amount: float) -> Image:
    mixed: Image = np.round((1.0 - amount) * image + amount * other).astype(np.uint8)
    return mixed


TEXTURES = ("grass", "gravel", "brick")


@cache
def _texture(texture: str) -> Image:
    """Pixels (height, width, 3) of a texture by name or of an image file."""
    if texture in TEXTURES:
        from skimage import data

        grey = getattr(data, texture)()
        return np.repeat(grey[..., None], 3, axis=2)
    try:
        return decode_picture(Path(texture).read_bytes(), texture).over().pixels
    except OSError as error:
        raise UserError(
            f"The texture {texture} cannot be read ({error}): name a picture in PNG or JPEG."
        ) from error


OPERATIONS: dict[str, Callable[..., tuple[Image, Affine]]] = {
    function.__name__: function
    for function in (
        hflip,
        crop,
        pad,
        shift,
        rescale,
        channel_mix,
        overlay,
        blur,
        pixel_noise,
    )
}


def square(image: Image) -> tuple[Image, Affine]:
    """Pad to a square by repeating the edge pixels, content in the middle."""
    height, width = image.shape[:2]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return pad(image, left=left, top=top, right=side - width - left, bottom=side - height - top)


def fit(image: Image, *, resolution: int, how: Fit, multiple: int) -> tuple[Image, Affine]:
    """Bring an image to the resolution at which it is encoded.

    Parameters
    ----------
    image : array, (height, width, 3)
    resolution : int
        Length in pixels of the longer side.
    how : {"pad", "squash", "keep"}
        ``pad`` repeats the edge pixels to a square and resizes it (the thesis' way for SPair-71k);
        ``squash`` resizes both sides to ``resolution``; ``keep`` keeps the aspect ratio up to
        rounding.
    multiple : int
        Sides become multiples of this many pixels (the VAE's factor).
    """
    if how == "squash":
        return rescale(image, width=resolution, height=resolution)
    if how == "pad":
        padded, moved = square(image)
        resized, scaled = rescale(padded, width=resolution, height=resolution)
        return resized, moved.then(scaled)
    height, width = image.shape[:2]
    scale = resolution / max(height, width)
    return rescale(
        image,
        width=max(round(width * scale / multiple), 1) * multiple,
        height=max(round(height * scale / multiple), 1) * multiple,
    )


@dataclass(frozen=True, kw_only=True)
class View:
    """A chain of operations, the fit to the resolution, and operations on the fitted image.

    Attributes
    ----------
    operations : tuple of {name: arguments}
        Applied in order to the original image; see :data:`OPERATIONS`.
    fit : {"pad", "squash", "keep"}
        See :func:`fit`.
    after : tuple of {name: arguments}
        Applied in order to the fitted image, in its pixels: a crop here is not scaled up again.
    """

    operations: tuple[Mapping[str, Any], ...] = ()
    fit: Fit = "pad"
    after: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for operation in (*self.operations, *self.after):
            if len(operation) != 1 or next(iter(operation)) not in OPERATIONS:
                raise UserError(
                    f"operation {dict(operation)} is not known: write one of "
                    f"{', '.join(OPERATIONS)} with its arguments, such as `crop: {{left: 8}}`."
                )
            ((name, arguments),) = operation.items()
            try:
                inspect.signature(OPERATIONS[name]).bind(
                    None, **_named(name, ""), **(arguments or {})
                )
            except TypeError as error:
                raise UserError(f"operation {name}: {error}.") from error
            _check(name, arguments or {})

    @property
    def files(self) -> list[str]:
        """Files that the operations read: the textures that are given by their path."""
        textures = (
            arguments["texture"]
            for operation in (*self.operations, *self.after)
            for name, arguments in operation.items()
            if name == "overlay"
        )
        return sorted({texture for texture in textures if texture not in TEXTURES})

    def apply(
        self, image: Image, *, resolution: int, multiple: int, image_id: str
    ) -> tuple[Image, Affine]:
        """Apply the view to an original image.

        Parameters
        ----------
        image : array, (height, width, 3), uint8
        resolution, multiple : int
            See :func:`fit`.
        image_id : str
            Name of the image, from which its ``pixel_noise`` is seeded.

        Returns
        -------
        image : array, (height', width', 3), uint8
            What the VAE encodes.
        transform : Affine
            Map from original to encoded pixels.

        Raises
        ------
        UserError
            If the sides of the encoded image would not be multiples of ``multiple``.
        """
        image, moved = _chain(image, self.operations, image_id)
        image, fitted = fit(image, resolution=resolution, how=self.fit, multiple=multiple)
        image, after = _chain(image, self.after, image_id)
        height, width = image.shape[:2]
        if height % multiple or width % multiple:
            raise UserError(
                f"An encoded image would have {width} x {height} pixels, which are not multiples "
                f"of {multiple}: change the resolution or the view's operations after the fit."
            )
        return np.ascontiguousarray(image), moved.then(fitted).then(after)


def _chain(
    image: Image, operations: Sequence[Mapping[str, Any]], image_id: str
) -> tuple[Image, Affine]:
    moved = Affine()
    for operation in operations:
        ((name, arguments),) = operation.items()
        image, step = OPERATIONS[name](image, **_named(name, image_id), **(arguments or {}))
        moved = moved.then(step)
    return image, moved


FURTHEST = 8192
"""Pixels that an operation moves, adds, cuts off or makes, at most."""


def _named(operation: str, image_id: str) -> dict[str, str]:
    """The image's name for the operations that are random."""
    return {"image_id": image_id} if operation == "pixel_noise" else {}


def _check(operation: str, arguments: Mapping[str, Any]) -> None:
    """Check what only a wrong picture would show, or a full memory."""
    for key, parameter in inspect.signature(OPERATIONS[operation]).parameters.items():
        if key in arguments and parameter.annotation == "int":
            value = arguments[key]
            least = {"shift": -FURTHEST, "rescale": 1}.get(operation, 0)
            most = 2**32 - 1 if key == "seed" else FURTHEST
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UserError(
                    f"operation {operation}: {key} is {value}; use a whole number from {least} to "
                    f"{most}."
                )
    for key, high in (("amount", 1), ("radius", FURTHEST)):
        value = arguments.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
            raise UserError(
                f"operation {operation}: {key} is {value}; use a number from 0 to {high}."
            )
    texture = arguments.get("texture", TEXTURES[0])
    if texture not in TEXTURES and not Path(str(texture)).is_file():
        raise UserError(
            f"operation {operation}: there is no texture {texture}: use {', '.join(TEXTURES)} or "
            "the path of an image file."
        )
