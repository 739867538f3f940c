"""What the operations of RandAugment do to a picture: Pillow's pixels.

`randaugment` chooses them and their numbers. Measured against TensorFlow 2.12 on 24
photos and noise, magnitudes 1 to 20 of big_vision: Color, Contrast and Sharpness differ
by up to 2 levels of 255 at 15 and 3 at 20, AutoContrast by 1, rotations and shears where
two neighbours are equally near (up to 0.1 and 4 % of pixels), all others nowhere. timm's
operations are Pillow's as well, and the pixels are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps


class Step(NamedTuple):
    """An operation and its numbers.

    Attributes:
        name: As in big_vision.
        values: Degrees, a factor, a threshold, bits, pixels, or (pad, row, column) of
            Cutout.
    """

    name: str
    values: tuple[float, ...] = ()


class Moving(NamedTuple):
    """Say how pixels move, and what comes in at the borders.

    Attributes:
        fill: Of each band, 0 to 255; a single number is for all.
        resample: Pillow's filter.
    """

    fill: tuple[int, ...] = (128,)
    resample: Image.Resampling = Image.Resampling.NEAREST

    def colour(self, picture: Image.Image) -> tuple[int, ...]:
        """Return the fill of a picture, with a number for each of its bands."""
        bands = len(picture.getbands())
        return self.fill * bands if len(self.fill) == 1 else self.fill


BIG_VISION = Moving()


def operate(
    picture: Image.Image, step: Step, moving: Moving = BIG_VISION
) -> Image.Image:
    """Return what one operation makes of a gray or RGB picture.

    Args:
        picture: Mode L or RGB; it is not changed.
        step: From a plan of `randaugment`.
        moving: Of what moves pixels; by default big_vision's.
    """
    if step.name in _MATRICES:
        return _moved(picture, _MATRICES[step.name](*step.values), moving)
    if step.name == "Rotate":
        colour = moving.colour(picture)
        return picture.rotate(step.values[0], moving.resample, fillcolor=colour)
    if step.name == "Cutout":
        return _cut_out(picture, moving.colour(picture), *step.values)
    return _OPERATIONS[step.name](picture, *step.values)


def _moved(
    picture: Image.Image, matrix: Sequence[float], moving: Moving
) -> Image.Image:
    """Show input (ax + by + c, dx + ey + f) at output (x, y).

    Pixel centres are at halves.
    """
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        moving.resample,
        fillcolor=moving.colour(picture),
    )


def _cut_out(
    picture: Image.Image,
    colour: tuple[int, ...],
    pad: float,
    row: float,
    column: float,
) -> Image.Image:
    """Cover a square of side 2 * pad, cut off at the borders."""
    covered = picture.copy()
    box = (int(column - pad), int(row - pad), int(column + pad), int(row + pad))
    covered.paste(colour, box)
    return covered


def _looked_up(picture: Image.Image, values: Sequence[int]) -> Image.Image:
    """Replace each value v by values[v], in all channels."""
    return picture.point(list(values) * len(picture.getbands()))


def _posterized(picture: Image.Image, bits: float) -> Image.Image:
    """Keep the highest bits of each value."""
    # By a table, because Pillow 13 refuses 0 bits, which timm's largest magnitude keeps.
    lost = 8 - int(bits)
    return _looked_up(picture, [v >> lost << lost for v in range(256)])


def _solarized(picture: Image.Image, least: float) -> Image.Image:
    """Invert the values from `least` on."""
    return _looked_up(picture, [v if v < least else 255 - v for v in range(256)])


def _brightened_darks(picture: Image.Image, more: float) -> Image.Image:
    """Add to the values in the darker half."""
    added = [min(255, v + int(more)) for v in range(128)]
    return _looked_up(picture, [*added, *range(128, 256)])


_MATRICES: dict[str, Callable[..., Sequence[float]]] = {
    "ShearX": lambda shear, shift: (1, shear, shift, 0, 1, 0),
    "ShearY": lambda shear, shift: (1, 0, 0, shear, 1, shift),
    "TranslateX": lambda pixels: (1, 0, -pixels, 0, 1, 0),
    "TranslateY": lambda pixels: (1, 0, 0, 0, 1, -pixels),
}

_OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    "AutoContrast": ImageOps.autocontrast,
    "Equalize": ImageOps.equalize,
    "Invert": ImageOps.invert,
    "Posterize": _posterized,
    "Solarize": _solarized,
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
    "SolarizeAdd": _brightened_darks,
}  # fmt: skip
