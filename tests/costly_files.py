"""Pictures that are what they say, and take as much to decode as their format can.

`costly_files(side)` has flat pictures of side x side pixels, so the files are small.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

_MADE: dict[str, Callable[[int], bytes]] = {}


def costly_files(side: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file that this Pillow can write.

    Args:
        side: Pixels.
    """
    for name, make in _MADE.items():
        try:
            yield name, make(side)
        except KeyError:
            # Such as AVIF, which a build may lack.
            continue


def _file(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    _MADE[make.__name__] = make
    return make


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _flat(mode: str, side: int) -> Image.Image:
    return Image.new(mode, (side, side), 9 if len(mode) == 1 else None)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@_file
def jpeg_on_its_side(side: int) -> bytes:
    return _saved(_flat("RGB", side), "JPEG", exif=_turned())


@_file
def jpeg_of_four_inks(side: int) -> bytes:
    return _saved(_flat("CMYK", side), "JPEG")


@_file
def jpeg_of_scans(side: int) -> bytes:
    """As many scans as are read, each of which goes over all coefficients."""
    jpeg = _saved(_flat("L", side), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * 150 + jpeg[-2:]


@_file
def jpeg_of_coloured_scans(side: int) -> bytes:
    return _saved(_flat("RGB", side), "JPEG", progressive=True, subsampling=0)


@_file
def png_with_alpha(side: int) -> bytes:
    return _saved(_flat("RGBA", side), "PNG", compress_level=1)


@_file
def png_with_alpha_on_its_side(side: int) -> bytes:
    return _saved(_flat("LA", side), "PNG", compress_level=1, exif=_turned())


@_file
def png_of_16_bits(side: int) -> bytes:
    return _saved(_flat("I;16", side), "PNG", compress_level=1)


@_file
def png_of_colours_with_a_transparent_one(side: int) -> bytes:
    return _saved(_flat("P", side), "PNG", transparency=9, compress_level=1)


@_file
def png_of_many_frames(side: int) -> bytes:
    frames = [Image.new("RGB", (500, 500), (n % 256, 0, n)) for n in range(200)]
    return _saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


@_file
def gif_of_many_frames(side: int) -> bytes:
    frames = [Image.new("L", (500, 500), n % 256) for n in range(1000)]
    return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


@_file
def gif_in_four_passes(side: int) -> bytes:
    return _saved(_flat("P", side), "GIF", interlace=1)


@_file
def webp_of_many_frames(side: int) -> bytes:
    frames = [Image.new("RGB", (500, 500), (n, 0, 9)) for n in range(100)]
    return _saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


@_file
def webp_with_alpha(side: int) -> bytes:
    # 16 bytes a pixel: what the budget of a decoder lets pass.
    return _saved(_flat("RGBA", side // 2), "WEBP", lossless=True, method=0)


@_file
def bmp_of_runs(side: int) -> bytes:
    palette = bytes(4 * 256)
    row = bytes([255, 7]) * (side // 255) + bytes([side % 255, 7, 0, 0])
    data = row * side + b"\0\1"
    start = 54 + len(palette)
    head = struct.pack("<IHHI", start + len(data), 0, 0, start)
    fields = (40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", *fields) + palette + data


@_file
def tiff_in_one_strip(side: int) -> bytes:
    packed = {"compression": "tiff_deflate", "tiffinfo": {278: side}}
    return _saved(_flat("RGB", side), "TIFF", **packed)


@_file
def tiff_of_16_bits(side: int) -> bytes:
    return _saved(_flat("I;16", side), "TIFF", compression="tiff_lzw")


@_file
def jpeg2000(side: int) -> bytes:
    return _saved(_flat("RGB", side // 2), "JPEG2000")


@_file
def avif(side: int) -> bytes:
    return _saved(_flat("RGB", side // 2), "AVIF", speed=10)


@_file
def two_pictures(side: int) -> bytes:
    more = [_flat("RGB", side // 2)] * 3
    return _saved(_flat("RGB", side), "MPO", save_all=True, append_images=more)
