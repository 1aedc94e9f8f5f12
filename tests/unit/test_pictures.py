"""Pictures of every mode and depth that Pillow opens, against arithmetic on their numbers."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from reprscope.data.canonical import decode
from reprscope.data.pictures import (
    NOT_OPENED,
    SUFFIXES,
    check_background,
    decode_picture,
    upright_rgb,
)
from reprscope.data.record import Record
from reprscope.runtime.errors import UserError
from support.pictures import smooth_image

RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None], 16, axis=0)
COLOURS = smooth_image(24, 16, 3)


def encoded(image, kind, **options):
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pgm(values, whole):
    height, width = values.shape
    return f"P5 {width} {height} {whole}\n".encode() + values.astype(">u2").tobytes()


def png(width, height, bits, kind, rows, **chunks):
    """A PNG file by hand: Pillow writes no 16 bits of colour and no such transparency."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    more = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def over(colours, alpha, background=(255, 255, 255)):
    """Straight alpha by definition, in floats."""
    share = alpha[..., None] / 255
    return share * colours + (1 - share) * np.array(background)


GREY = {
    "8 bits": encoded(RAMP, "png"),
    "16 bits": encoded(RAMP.astype(np.uint16) * 257, "png"),
    "16 bits, TIFF": encoded(RAMP.astype(np.uint16) * 257, "tiff"),
    "16 bits, JPEG 2000": encoded(RAMP.astype(np.uint16) * 257, "jpeg2000"),
    "16 bits, PGM": pgm(RAMP.astype(np.uint16) * 257, 65535),
    "32 bits": encoded(RAMP.astype(np.int32) * 257, "tiff"),
    "floats": encoded(RAMP.astype(np.float32) / 255, "tiff"),
    "floats, PFM": b"Pf\n256 16\n-1.0\n" + (RAMP.astype("<f4") / 255).tobytes(),
    "palette": encoded(Image.fromarray(RAMP).convert("P"), "png"),
    "16 bits of colour": png(256, 16, 16, 2, [np.repeat(RAMP[0], 6).tobytes()] * 16),
    "16 bits with alpha": png(
        256, 16, 16, 4, [np.stack([RAMP[0]] * 2 + [RAMP[0] * 0 + 255] * 2, 1).tobytes()] * 16
    ),
}


@pytest.mark.parametrize("kind", GREY)
def test_a_ramp_from_black_to_white_is_one_in_every_depth(kind):
    pixels = decode_picture(GREY[kind], kind).over().pixels
    assert pixels.shape == (16, 256, 3)
    assert np.array_equal(pixels, np.repeat(RAMP[..., None], 3, axis=2))


def test_grey_of_sixteen_bits_is_rounded_to_the_nearest_of_eight():
    values = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)
    for data in (encoded(values, "png"), pgm(values, 65535)):
        pixels = decode_picture(data, "")
        assert np.abs(pixels.pixels[..., 0] - values / 257).max() <= 0.5 + 1e-9
        assert pixels.changes == ("16-bit grey, 0 to 65535, brought to 8 bits",)


def test_sixteen_bits_in_either_order_of_bytes():
    """By hand: Pillow writes one order only."""
    values = RAMP.astype(np.uint16) * 257 - (RAMP > 0)
    for order, mark in (("<", b"II"), (">", b"MM")):
        tags = [(256, 256), (257, 16), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1)]
        tags += [(278, 16), (279, values.size * 2)]
        data = values.astype(f"{order}u2").tobytes()
        entries = b"".join(struct.pack(f"{order}HHII", t, 4, 1, v) for t, v in tags)
        head = mark + struct.pack(f"{order}HI", 42, 8 + len(data))
        file = head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
        pixels = decode_picture(file, mark.decode()).pixels
        assert np.array_equal(pixels[..., 0], np.floor(values / 257 + 0.5))


def test_other_ways_to_write_colours_give_the_same_colours():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = Image.fromarray(COLOURS)
    same = {
        "CMYK": (encoded(picture.convert("CMYK"), "tiff"), 0),
        "CMYK of Adobe, inverted": (encoded(picture.convert("CMYK"), "jpeg", quality=100), 12),
        "YCbCr": (encoded(picture.convert("YCbCr"), "tiff"), 3),
        "LAB": (
            encoded(ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB"), "tiff"),
            6,
        ),
        "RGBA, opaque": (encoded(picture.convert("RGBA"), "png"), 0),
        "WebP": (encoded(picture, "webp", lossless=True), 0),
        "JPEG 2000": (encoded(picture, "jpeg2000"), 0),
        "PPM": (encoded(picture, "ppm"), 0),
        "BMP": (encoded(picture, "bmp"), 0),
        "TGA": (encoded(picture, "tga"), 0),
        "QOI": (encoded(picture, "qoi"), 0),
        "AVIF": (encoded(picture, "avif", quality=100, subsampling="4:4:4"), 6),
    }
    for kind, (data, tolerance) in same.items():
        found = decode_picture(data, kind).over().pixels.astype(int)
        assert np.percentile(np.abs(found - COLOURS), 95) <= tolerance, kind


def transparent():
    """Files by kind of transparency, with colours (height, width, 3) and alpha (height, width)."""
    rng = np.random.default_rng(1)
    alpha = rng.integers(0, 256, (16, 24), dtype=np.uint8)
    straight = np.dstack([COLOURS, alpha])
    grey = COLOURS[..., 0]
    picture = Image.fromarray(COLOURS).quantize(16)
    numbers = np.asarray(picture)
    palette = np.array(picture.getpalette()).reshape(-1, 3)
    of_entries = bytes(range(0, 256, 17))
    threes = np.repeat(grey[..., None], 3, axis=2)
    yield "RGBA", encoded(straight, "png"), COLOURS, alpha
    yield "RGBA, WebP", encoded(straight, "webp", lossless=True, exact=True), COLOURS, alpha
    yield "LA", encoded(Image.fromarray(np.dstack([grey, alpha])), "png"), threes, alpha
    yield (
        "palette, alpha of entries",
        encoded(picture, "png", transparency=of_entries),
        palette[numbers],
        np.frombuffer(of_entries, np.uint8)[numbers],
    )
    yield (
        "palette, one entry",
        encoded(picture, "gif", transparency=3),
        palette[numbers],
        np.where(numbers == 3, 0, 255),
    )
    colour = tuple(int(value) for value in COLOURS[3, 4])
    yield (
        "one colour",
        encoded(COLOURS, "png", transparency=colour),
        COLOURS,
        np.where((colour == COLOURS).all(-1), 0, 255),
    )
    yield (
        "one grey",
        encoded(grey, "png", transparency=int(grey[2, 2])),
        threes,
        np.where(grey == grey[2, 2], 0, 255),
    )
    deep = grey.astype(np.uint16) * 257
    yield (
        "one grey of 16 bits",
        png(
            24,
            16,
            16,
            0,
            [row.astype(">u2").tobytes() for row in deep],
            tRNS=struct.pack(">H", int(deep[2, 2])),
        ),
        threes,
        np.where(grey == grey[2, 2], 0, 255),
    )
    yield (
        "one colour of 16 bits",
        png(
            24,
            16,
            16,
            2,
            [(row.astype(">u2") * 257).tobytes() for row in COLOURS],
            tRNS=struct.pack(">HHH", *(257 * value for value in colour)),
        ),
        COLOURS,
        np.where((colour == COLOURS).all(-1), 0, 255),
    )


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
def test_transparency_is_laid_over_the_background(background):
    for kind, data, colours, alpha in transparent():
        found = decode_picture(data, kind).over(background)
        expected = over(colours, np.asarray(alpha), background)
        assert np.abs(found.pixels - expected).max() <= 0.5 + 1e-4, kind
        assert "transparency laid over" in found.changes[-1], kind
        # What is stored is the same picture, not bytes that declare transparency again.
        record = Record()
        stored = upright_rgb(data, kind, record, background)[0]
        assert np.array_equal(decode(stored, kind), found.pixels), kind


def test_a_colour_under_transparency_is_not_seen():
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., 0] = 255
    image[16:48, 16:48] = (0, 255, 0, 255)
    pixels = decode_picture(encoded(image, "png"), "").over().pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[20, 20].tolist() == [0, 255, 0]
    image[..., 3] = 0
    nothing = decode_picture(encoded(image, "png"), "")
    assert nothing.over().changes[-1] == "nothing but transparency, which leaves white"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_every_orientation_of_a_camera(orientation, kind):
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 1)[:, ::-1],
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(COLOURS, kind, exif=exif)
    plain = decode_picture(encoded(COLOURS, kind), kind).pixels
    found = decode_picture(data, kind)
    assert np.array_equal(found.pixels, turned[orientation](plain))
    assert ("a camera's orientation, which is applied" in found.changes) == (orientation > 1)


def test_an_orientation_or_exif_without_a_meaning_leaves_the_picture_upright():
    for value in (0, 9, 1000):
        exif = Image.Exif()
        exif[0x0112] = value
        data = encoded(COLOURS, "png", exif=exif)
        assert np.array_equal(decode_picture(data, "").pixels, COLOURS)
    data = encoded(COLOURS, "png", exif=b"Exif\0\0II*\0 this is no EXIF")
    assert np.array_equal(decode_picture(data, "").pixels, COLOURS)


def test_the_first_frame_is_read_and_that_is_said():
    frames = [Image.fromarray(smooth_image(24, 16, seed)).quantize(32) for seed in (3, 4, 5)]
    for kind in ("gif", "tiff", "webp", "png"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        found = decode_picture(data, kind)
        alone = decode_picture(encoded(frames[0], kind, lossless=True), kind)
        assert np.array_equal(found.over().pixels, alone.over().pixels), kind
        assert "several frames or pages, of which the first is read" in found.changes
        assert "several frames or pages, of which the first is read" not in alone.changes


def test_a_colour_profile_is_counted_and_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    record = Record()
    data, _, _ = upright_rgb(encoded(COLOURS, "png", icc_profile=profile), "a.png", record)
    assert np.array_equal(decode(data, ""), COLOURS)
    assert record.lines() == ("images with a colour profile, which is not applied: 1 (a.png)",)


def test_nothing_is_counted_for_plain_pictures_and_their_bytes_stay():
    for kind in ("png", "jpeg"):
        record = Record()
        data = encoded(COLOURS, kind)
        assert upright_rgb(data, "a", record) == (data, 24, 16)
        assert record.lines() == ()


BROKEN = {
    "empty": (b"", "is an empty file"),
    "text": (b"<html>404 not found</html>", "is of no known kind .it begins with b'<html>40'"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is of no known kind"),
    "half a PNG": (encoded(COLOURS, "png")[:400], "cannot be decoded"),
    "half a JPEG": (encoded(COLOURS, "jpeg")[:500], "cannot be decoded"),
    "half a GIF": (encoded(Image.fromarray(COLOURS).quantize(), "gif")[:900], "cannot be decoded"),
    "half a TIFF": (encoded(COLOURS, "tiff")[:300], "cannot be decoded"),
    "half a WebP": (encoded(COLOURS, "webp")[:60], "cannot be decoded"),
    "a header alone": (encoded(COLOURS, "png")[:33], "cannot be decoded"),
    "one wrong bit": (
        encoded(COLOURS, "png")[:60] + b"\xff\xff" + encoded(COLOURS, "png")[62:],
        "cannot be decoded",
    ),
    "no pixels": (png(0, 0, 8, 2, []), "cannot be decoded|no pixels"),
    "no width": (b"P6 0 9 255\n", "cannot be decoded|no pixels"),
    "a bomb": (png(40_000, 40_000, 8, 2, []), "has too many pixels .* 178956970 pixels"),
    "a small bomb": (png(15_000, 12_000, 8, 2, []), "has too many pixels"),
    "a wrong checksum": (
        encoded(COLOURS, "png")[:-20] + b"\x01" + encoded(COLOURS, "png")[-19:],
        "cannot be decoded",
    ),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is of no known kind"),
    "negative": (encoded(RAMP.astype(np.int32) - 9, "tiff"), "numbers from -9 to 246"),
    "32 bits": (encoded(RAMP.astype(np.int32) << 16, "tiff"), "save it with 8 or 16 bits"),
    "floats to 255": (encoded(RAMP.astype(np.float32), "tiff"), "numbers from 0 to 255"),
    "not a number": (encoded(RAMP.astype(np.float32) * np.nan, "tiff"), "numbers from nan to nan"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_one_sentence_that_names_it(kind):
    data, sentence = BROKEN[kind]
    with pytest.raises(UserError, match=sentence) as caught:
        upright_rgb(data, "cat/a\nb.png", Record())
    assert "Image cat/a\\nb.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)


def test_suffixes_are_those_of_the_formats_that_are_opened():
    Image.init()
    known = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in NOT_OPENED
    }
    # Files of several pictures begin as JPEG files do.
    assert known | {".mpo"} == SUFFIXES


def test_a_record_counts_and_names_the_first():
    record = Record()
    record.say("first")
    for name in ("a", "b\n", "c", "d", "e"):
        record.count("kind", name)
    assert record.lines() == ("first", "kind: 5 (a, b\\n, c and 2 more)")


@pytest.mark.parametrize("background", [(0, 0), (0, 0, 256), (-1, 0, 0)])
def test_a_background_is_a_colour(background):
    with pytest.raises(UserError, match="background is"):
        check_background(background)
