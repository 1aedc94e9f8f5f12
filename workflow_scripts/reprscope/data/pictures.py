"""Encoded images of any kind, brought to the form that the canonical table holds."""

from __future__ import annotations

import io

import numpy as np

from reprscope.data.canonical import encode_png
from reprscope.errors import UserError

#: EXIF tag of the camera's orientation; 1 is upright.
ORIENTATION = 0x0112


def upright_rgb(data: bytes, image_id: str) -> tuple[bytes, int, int]:
    """Bytes, width and height (pixels) of an upright RGB image.

    PNG and JPEG bytes that are RGB and upright already are kept as they are; all else is
    converted and becomes PNG, so that no pixel changes.

    Raises
    ------
    UserError
        If the bytes are not a complete image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            upright = picture.getexif().get(ORIENTATION, 1) == 1
            if picture.format in ("PNG", "JPEG") and picture.mode == "RGB" and upright:
                return data, picture.width, picture.height
            turned = ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:
        raise UserError(
            f"Image {image_id} cannot be decoded ({error}): replace or remove it in the source."
        ) from error
    return encode_png(np.asarray(turned)), turned.width, turned.height
