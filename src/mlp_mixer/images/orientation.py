"""How EXIF says that a camera was held."""

from __future__ import annotations

from PIL import Image

from .claims import check_exif

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ON_ITS_SIDE = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
"""Turns that swap height and width."""

FROM_BELOW = {_UPRIGHT[orientation] for orientation in (3, 4, 7, 8)}
"""Turns that begin with the last row."""

FROM_RIGHT = {_UPRIGHT[orientation] for orientation in (2, 3, 6, 7)}
"""Turns that begin with the last column."""


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how EXIF asks to turn an image.

    ImageOps.exif_transpose would also rewrite it, and stumble over a bad one.

    Args:
        image: As it was opened.

    Raises:
        CostlyError: Its EXIF block claims more than it holds.
    """
    # That of a JPEG was looked at before it was opened.
    if image.format not in ("JPEG", "MPO"):
        check_exif(_block_of(image), "the image")
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        # A broken EXIF block says nothing about the pixels.
        return None


def _block_of(image: Image.Image) -> bytes:
    """Return the EXIF block that Pillow would read, empty if there is no such."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        return block
    # In a text of PNG, as ImageMagick writes it: three lines, then hexadecimal.
    text = image.info.get("Raw profile type exif")
    if not isinstance(text, str):
        return b""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""
