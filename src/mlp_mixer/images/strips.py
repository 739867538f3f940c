"""Turn and convert a decoded image strip by strip.

An image of 50 megapixels takes 200 MB. Turned, laid on white, and brought to RGB as a
whole, it would take as much a second, a third and a fourth time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL import Image

from .orientation import FROM_BELOW, ON_ITS_SIDE

_STRIP = 2**20  # pixels

Box = tuple[int, int, int, int]
Turn = Image.Transpose | None


def turned(
    image: Image.Image, turn: Turn, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Return what `convert(image.transpose(turn))` would, in less memory.

    Args:
        image: Decoded.
        turn: What turns it upright; None if it is so.
        convert: Brings each pixel to another mode, whatever its neighbours are.
    """
    width, height = image.size[::-1] if turn in ON_ITS_SIDE else image.size
    if width * height <= _STRIP:
        return convert(image if turn is None else image.transpose(turn))
    upright = None
    top = 0
    for box in _strips(image.size, turn, max(1, _STRIP // width)):
        strip = image.crop(box)
        strip = convert(strip if turn is None else strip.transpose(turn))
        if upright is None:
            upright = Image.new(strip.mode, (width, height))
        upright.paste(strip, (0, top))
        top += strip.height
    assert upright
    return upright


def _strips(size: tuple[int, int], turn: Turn, rows: int) -> Iterator[Box]:
    """Yield the box of every few rows of the upright image, from its top on."""
    width, height = size
    on_its_side = turn in ON_ITS_SIDE
    # Of an image on its side each row is a column of the file.
    length = width if on_its_side else height
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        first = start
        last = stop
        if turn in FROM_BELOW:
            first = length - stop
            last = length - start
        yield (first, 0, last, height) if on_its_side else (0, first, width, last)
