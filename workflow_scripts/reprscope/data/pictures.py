"""Pictures of any kind, brought to the one form that the canonical table holds: upright 8-bit RGB.

All sources decode here. The rules, by what Pillow opens:

* 1, L, LA: grey, the same in all three channels.
* I;16 in either order of bytes, and I (16 or 32 bits): 0 to 65535 is black to white (value / 257,
  rounded). Other values have no stated meaning and are an error.
* F: 0 to 1 is black to white. Other values are an error.
* P, PA: the colours of the palette.
* RGB, RGBA, RGBX: as they are; the fourth channel of RGBX is dropped. Of 16 bits per channel the
  upper 8 are kept.
* CMYK, YCbCr, HSV, LAB: Pillow's own conversion. JPEG files of Adobe hold CMYK inverted, which
  Pillow's decoder undoes.
* Transparency of any kind (an alpha channel, premultiplied or not, or one colour or some entries of
  the palette that the file declares transparent): laid over ``background``.
* The camera's orientation (EXIF) is applied. Colour profiles (ICC) are not: numbers are read as
  sRGB.
* Of several frames or pages the first is read.
* What is cut off, has a wrong checksum (PNG has them), no pixels or more than 178,956,970 of them,
  or is no picture, is an error that names the file.

Each of these conversions is counted in the source's :class:`reprscope.data.record.Record`. Formats
whose reading would start another program (EPS, WMF) are not opened.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reprscope.data.canonical import encode_png
from reprscope.data.record import Record, printable
from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    from PIL import Image as Pillow

#: EXIF tag of the camera's orientation; 1 is upright.
ORIENTATION = 0x0112

#: Colour under transparency.
WHITE = (255, 255, 255)

#: Formats of Pillow that need another program, or only know that there is a picture.
NOT_OPENED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

_SUFFIXES = (
    "apng avif avifs blp bmp bw cur dcx dds dib fit fits flc fli ftc ftu gbr gif icb icns ico iim "
    "im j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo msp pbm pcd pcx pfm pgm png pnm ppm psd pxr "
    "qoi ras rgb rgba sgi tga tif tiff vda vst webp xbm xpm"
)
SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Suffixes of the formats that are opened, in lower case; stated, since a study is read without
Pillow."""

_PNG = b"\x89PNG\r\n\x1a\n"

#: PNG's bits per channel stand at this byte of the file.
_PNG_DEPTH = 24

_CHANGES = {
    "1": "black and white read as RGB",
    "L": "grey read as RGB",
    "LA": "grey read as RGB",
    "La": "grey read as RGB",
    "I": "16-bit grey, 0 to 65535, brought to 8 bits",
    "F": "grey of floats, 0 to 1, brought to 8 bits",
    "P": "palette read as RGB",
    "PA": "palette read as RGB",
    "RGBX": "fourth channel without a meaning dropped",
    "CMYK": "CMYK read as RGB",
    "YCbCr": "YCbCr read as RGB",
    "HSV": "HSV read as RGB",
    "LAB": "LAB read as RGB",
}


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes
    ----------
    pixels : (height, width, 3) of uint8
        Upright RGB, under transparency too.
    alpha : (height, width) of uint8, or None
        0 is transparent, 255 opaque; None where the file declares no transparency.
    changes : tuple of str
        What was converted, in words.
    kept : bool
        Whether the encoded bytes are this picture in a form that the canonical table holds.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    changes: tuple[str, ...]
    kept: bool

    def over(self, background: Sequence[int] = WHITE) -> Picture:
        """Lay the picture over a colour (red, green and blue, 0 to 255)."""
        if self.alpha is None or self.alpha.min() == 255:
            return self
        colour = "white" if tuple(background) == WHITE else f"the colour {list(background)}"
        change = (
            f"transparency laid over {colour}"
            if self.alpha.max()
            else f"nothing but transparency, which leaves {colour}"
        )
        pixels = _over(self.pixels, self.alpha, background)
        return Picture(pixels, None, (*self.changes, change), kept=False)


def check_background(background: Sequence[int]) -> None:
    """Check a colour that is laid under transparency.

    Raises
    ------
    UserError
        If it is not three numbers from 0 to 255.
    """
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise UserError(
            f"background is {list(background)}: write red, green and blue from 0 to 255."
        )


def upright_rgb(
    data: bytes, image_id: str, record: Record, background: Sequence[int] = WHITE
) -> tuple[bytes, int, int]:
    """Bytes, width and height (pixels) of an upright RGB image.

    PNG and JPEG bytes that are RGB, opaque and upright already are kept as they are; all else is
    converted by the rules of this module and becomes PNG.

    Raises
    ------
    UserError
        If the bytes are not a complete image, or one whose values have no stated meaning.
    """
    picture = decode_picture(data, image_id).over(background)
    for change in picture.changes:
        record.count(f"images with {change}", image_id)
    height, width = picture.pixels.shape[:2]
    return (data if picture.kept else encode_png(picture.pixels)), width, height


def decode_picture(data: bytes, image_id: str) -> Picture:
    """Decode a picture by the rules of this module, its transparency apart.

    Parameters
    ----------
    data : bytes
        Encoded picture.
    image_id : str
        How to name it in an error.

    Raises
    ------
    UserError
        See :func:`upright_rgb`.
    """
    from PIL import Image, UnidentifiedImageError

    name = printable(image_id)
    if not data:
        raise UserError(f"Image {name} is an empty file: replace or remove it.")
    try:
        with warnings.catch_warnings():
            # Of damaged metadata, and of sizes between Pillow's limit and ours.
            warnings.simplefilter("ignore")
            if data.startswith(_PNG):
                # Decoding compares no checksums; other formats have none.
                with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
                    file.verify()
            with Image.open(io.BytesIO(data), formats=_formats()) as picture:
                if min(picture.size) < 1:
                    raise UserError(f"Image {name} has no pixels: replace or remove it.")
                # Both before the pixels: asking for frames may move to the last one, and some
                # decoders (TIFF, AVIF) turn the picture and then forget how it stood.
                frames, stood = _frames(picture), _orientation(picture)
                picture.load()
                return _decoded(picture, data, name, frames, stood)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"Image {name} has too many pixels ({error}): make it smaller or remove it."
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"Image {name} cannot be decoded, since it is of no known kind (it begins with "
            f"{data[:8]!r}): replace or remove it."
        ) from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Image {name} cannot be decoded ({text}): replace or remove it."
        ) from error


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if name not in NOT_OPENED]


def _frames(picture: Pillow.Image) -> int:
    """Number of frames or pages; 1 where it cannot be told."""
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:
        return 1


def _decoded(picture: Pillow.Image, data: bytes, name: str, frames: int, stood: int) -> Picture:
    kind = "I" if picture.mode.startswith("I;16") else picture.mode
    found = [_CHANGES[kind]] if kind in _CHANGES else []
    if _deep(picture, data):
        found.append("16 bits per channel brought to the upper 8")
    if frames > 1:
        found.append("several frames or pages, of which the first is read")
    if picture.info.get("icc_profile"):
        found.append("a colour profile, which is not applied")
    orientation = _orientation(picture)
    upright = _turned(picture, orientation)
    if stood != 1 or orientation != 1:
        found.append("a camera's orientation, which is applied")
    pixels, alpha = _colours(upright, name)
    kept = (
        picture.format in ("PNG", "JPEG")
        and picture.mode == "RGB"
        and orientation == 1
        and alpha is None
    )
    return Picture(np.ascontiguousarray(pixels), alpha, tuple(found), kept)


def _deep(picture: Pillow.Image, data: bytes) -> bool:
    """Whether Pillow has cut channels of 16 bits to 8 by itself."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return False
    if picture.format == "PNG":
        return data[_PNG_DEPTH] == 16
    bits = getattr(picture, "tag_v2", {}).get(258) if picture.format == "TIFF" else None
    return bits is not None and max(np.ravel(bits).tolist()) > 8


def _orientation(picture: Pillow.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(picture: Pillow.Image, orientation: int) -> Pillow.Image:
    from PIL import Image

    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return picture.transpose(turn[orientation]) if orientation != 1 else picture


def _colours(
    picture: Pillow.Image, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Colours (height, width, 3) and, where there is transparency, alpha (height, width)."""
    mode, declared = picture.mode, picture.info.get("transparency")
    if mode == "F" or mode.startswith("I"):
        values = np.asarray(picture)
        grey = _grey(values, "F" if mode == "F" else "I", name)
        alpha = None
        if isinstance(declared, int):
            alpha = np.where(values == declared, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), alpha
    if mode == "RGBX":
        return np.asarray(picture)[..., :3], None
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB")), None
    if isinstance(declared, tuple) and max(declared) > 255:
        # The transparent colour of a PNG with 16 bits per channel, of which the upper 8 are left.
        picture.info["transparency"] = tuple(value >> 8 for value in declared)
    if mode == "La":
        picture = picture.convert("LA")
    rgba = np.asarray(picture.convert("RGBA"))
    return rgba[..., :3], rgba[..., 3]


def _grey(values: NDArray[Any], kind: str, name: str) -> NDArray[np.uint8]:
    """Grey of 8 bits of integers in 0 to 65535 or floats in 0 to 1, (height, width)."""
    whole = 1.0 if kind == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= whole):
        raise UserError(
            f"Image {name} holds numbers from {low:g} to {high:g}, and black and white are stated "
            f"for 0 to {whole:g} alone: save it with 8 or 16 bits."
        )
    return np.floor(values * (255 / whole) + 0.5).astype(np.uint8)


def _over(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Sequence[int]
) -> NDArray[np.uint8]:
    """Colours over a background, by rows, so that a large picture needs little memory."""
    under = np.array(background, np.float32)
    laid = np.empty_like(pixels)
    for row, (colours, share) in enumerate(zip(pixels, alpha, strict=True)):
        weight = share[:, None].astype(np.float32) / 255
        laid[row] = np.floor(weight * colours + (1 - weight) * under + 0.5)
    return laid
