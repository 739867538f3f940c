"""Fill templates: self-contained HTML without scripts, and the filters they use.

A page asks for nothing from outside (its content policy forbids it). The template
engine escapes all text from users; pictures are data URIs.
"""

from __future__ import annotations

import base64
import math
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..analysis import to_jpeg, to_png, visible
from ..files import PathLike, write_text
from ..intervals import plain_accuracy, short_accuracy
from .chart import number

Image8 = NDArray[np.uint8]
"""Pixels (H, W, C), C 1 or 3."""

_MOST_SAMPLE_PIXELS = 256  # on the longer side; cards show about 180
_MOST_TINY_PIXELS = 112  # of a picture among many others
_SMALL_PIXELS = 64  # up to here an enlarged picture shows its pixels instead of a blur


def write_html(
    path: PathLike,
    template: str,
    *,
    templates: Traversable | None = None,
    **values: Any,
) -> Path:
    """Write a page, whole or not at all.

    Args:
        path: The .html file.
        template: The name of a template in this folder or in `templates`.
        templates: A folder with more templates, which may extend `base.html.j2`.
        values: What the template names; `title` among them.

    Returns:
        The path.

    Raises:
        UserError: The disk refuses, or a picture is not uint8.
    """
    write_text(path, render_html(template, templates=templates, **values))
    return Path(path)


def render_html(
    template: str, *, templates: Traversable | None = None, **values: Any
) -> str:
    """Return a page as text.

    Args:
        template: The name of a template in this folder or in `templates`.
        templates: A folder with more templates, which may extend `base.html.j2`.
        values: What the template names; `title` among them.

    Raises:
        UserError: A picture is not uint8.
    """
    assert __package__
    folders = [resources.files(__package__)]
    if templates is not None:
        folders.append(templates)
    page = _environment(folders).get_template(template).render(**values)
    # File names may hold bytes that are no text (lone surrogates): show them escaped
    # rather than fail at the end.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _environment(folders: list[Traversable]) -> jinja2.Environment:
    def load(name: str) -> str | None:
        for folder in folders:
            file = folder / name
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        # A misspelled name in a template is an error, not an empty place on the page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "accuracy": _accuracy,
        "share": _share,
        "percent": _percent,
        "number": _number_or_dash,
        "fraction": _fraction,
        "thumbnail": thumbnail,
        "data_uri": _data_uri,
        "tiny_uri": _tiny_uri,
        "small": _is_small,
    }
    return environment


def to_float(value: Any) -> float:
    """Return a number of a journal; NaN for null, text or a value that is absent.

    Args:
        value: Anything that JSON can hold.
    """
    return float(value) if isinstance(value, (int, float)) else math.nan


def _number_or_dash(value: Any) -> str:
    shown = to_float(value)
    return number(shown) if math.isfinite(shown) else "–"


def _percent(value: Any, decimals: int) -> str:
    """Write a fraction with fixed decimals, so that columns align; NaN is a dash."""
    fraction = to_float(value)
    return f"{100 * fraction:.{decimals}f}%" if math.isfinite(fraction) else "–"


def _accuracy(value: Any, n: Any) -> str:
    """Write an accuracy with its interval, without decimals that n does not carry."""
    share = to_float(value)
    if not math.isfinite(share) or not isinstance(n, int):
        return "–"
    return short_accuracy(share, n)


def _share(value: Any, n: int) -> str:
    """Write a fraction of n with the decimals that n carries; NaN is a dash."""
    share = to_float(value)
    return plain_accuracy(share, n) if math.isfinite(share) else "–"


def _fraction(value: Any) -> float:
    """Return a number between 0 and 1, fit to be written into a style."""
    fraction = to_float(value)
    if not math.isfinite(fraction):
        return 0.0
    return round(min(max(fraction, 0.0), 1.0), 4)


def thumbnail(image: Image8, most: int = _MOST_SAMPLE_PIXELS) -> Image8:
    """Make a picture smaller if it is larger than a place for it.

    Args:
        image: uint8 (H, W, C); of other than 1 or 3 channels the mean is shown.
        most: Pixels of its longer side.

    Returns:
        uint8, the picture itself if it fits.
    """
    image = _visible(image)
    height, width = image.shape[:2]
    shrink = max(height, width) / most
    # Pixels of another type are left to `to_png`, which refuses them in one sentence.
    if shrink <= 1 or image.dtype != np.uint8:
        return image
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    pixels = image[:, :, 0] if image.shape[2:] == (1,) else image
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _visible(image: Image8) -> Image8:
    """Return a picture that a browser can show: of many bands their mean."""
    # What is no picture at all is left to `to_png`, which says so.
    return visible(image) if image.ndim == 3 and image.size else image


def _data_uri(image: Image8) -> str:
    return "data:image/png;base64," + base64.b64encode(to_png(_visible(image))).decode(
        "ascii"
    )


def _tiny_uri(image: Image8) -> str:
    """Write one of many pictures: exact if it has few pixels, else as a small JPEG."""
    if _is_small(image) or image.dtype != np.uint8:
        return _data_uri(image)
    data = to_jpeg(thumbnail(image, _MOST_TINY_PIXELS), quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _is_small(image: Image8) -> bool:
    longer: int = max(image.shape[:2])
    return longer <= _SMALL_PIXELS
