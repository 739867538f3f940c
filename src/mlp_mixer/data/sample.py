"""Some images of a dataset as files: to look at, or to try `predict` on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import PathLike, atomic_file, make_folder, refuse_to_replace
from ..images.decode import Pixels
from ..randomness import generator
from .dataset import Dataset
from .image_set import ImageSet

# What some system does not take in a name.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_MOST_BYTES = 100  # of a class in a name; file systems take 255 for the whole


@dataclass(frozen=True)
class Sampled:
    """Says which images were written.

    Attributes:
        paths: The files, named by class and place in the split.
        split: "test"; or "train", where the dataset has no test images.
    """

    paths: tuple[Path, ...]
    split: str


def write_sample(
    dataset: Dataset,
    out: PathLike,
    *,
    count: int = 8,
    seed: int = 0,
    overwrite: bool = False,
) -> Sampled:
    """Write some test images of a dataset as PNG files, named by their class.

    Images of other channels than gray and RGB become .npy files, which `predict` takes.

    Args:
        dataset: The dataset.
        out: The folder; it is created.
        count: How many images; all of them where there are no more.
        seed: Each draws other images.
        overwrite: Replace files of the same names.

    Returns:
        The files, and which images they are.

    Raises:
        UserError: The count is below 1, an image cannot be read, a name is taken, or the
            folder cannot be written.
    """
    if count < 1:
        raise UserError(f"a sample has at least 1 image, got count={count}")
    # A dataset with one image per class has none to hold out.
    split = "train" if dataset.test is None else "test"
    images = dataset.train if dataset.test is None else dataset.test
    folder = make_folder(out)
    chosen = generator(seed).permutation(len(images))[:count]
    paths = {int(index): folder / _name(images, int(index)) for index in chosen}
    if not overwrite:
        refuse_to_replace(*paths.values())
    for index, path in paths.items():
        _write(images.image(index), path)
    return Sampled(tuple(paths.values()), split)


def _name(images: ImageSet, index: int) -> str:
    """Return the name of an image's file, whatever its class is called."""
    label = _FORBIDDEN.sub("_", images.label_text(index)) or "no label"
    # Many labels of one image are a long text.
    short = label.encode()[:_MOST_BYTES].decode(errors="ignore")
    ending = "png" if images.channels in (1, 3) else "npy"
    return f"{short}_{index}.{ending}"


def _write(pixels: Pixels, path: Path) -> None:
    with atomic_file(path) as file:
        if path.suffix == ".npy":
            np.save(file, pixels)
            return
        gray = pixels.shape[2] == 1
        picture = Image.fromarray(pixels[..., 0] if gray else pixels)
        picture.save(file, format="PNG")
