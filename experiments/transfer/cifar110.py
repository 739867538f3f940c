"""Write CIFAR-10 and CIFAR-100 as one dataset of 110 classes, for `cifar110_8ep`.

    python experiments/transfer/cifar110.py cifar10:PATH cifar100:PATH cifar110.npz

No class of one is a class of the other: CIFAR-100 was collected so. Images in files and
arrays are taken alike, as long as all have one size.

The training images of both go through JPEG, each at a quality by chance. Copies of these
datasets differ in their coding, and a network that learns from both sees that before
anything else: one that had learnt from a lossless CIFAR-10 and a CIFAR-100 of JPEG files
took two of three lossless test images of CIFAR-100 for classes of CIFAR-10.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlp_mixer import Dataset, UserError, open_dataset
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.files import atomic_file

LEAST_QUALITY = 80
MOST_QUALITY = 100


def recoded(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The images (N, H, W, C) after JPEG; colours are as fine as brightness."""
    rng = np.random.default_rng(seed)
    qualities = rng.integers(LEAST_QUALITY, MOST_QUALITY + 1, len(images))
    found = []
    for image, quality in zip(images, qualities.tolist(), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        found.append(np.asarray(Image.open(file)))
    return np.stack(found)


def pixels(images: ImageSet) -> NDArray[np.uint8]:
    return np.stack([images.image(index) for index in range(len(images))])


def joined(first: Dataset, second: Dataset) -> dict[str, NDArray[np.generic]]:
    """Both datasets as the arrays of an .npz file.

    The second one's classes come after the first one's.

    Raises:
        UserError: They share a class, or one has no test split.
    """
    both = set(first.train.classes) & set(second.train.classes)
    if both:
        raise UserError(f"both datasets have the class {min(both)!r}; rename it in one")
    classes = [*first.train.classes, *second.train.classes]
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(classes)}
    for split in ("train", "test"):
        one, other = getattr(first, split), getattr(second, split)
        if one is None or other is None:
            raise UserError(f"both datasets need a {split} split")
        images = np.concatenate([pixels(one), pixels(other)])
        arrays[f"x_{split}"] = recoded(images, 0) if split == "train" else images
        shift = len(first.train.classes)
        arrays[f"y_{split}"] = np.concatenate([one.labels, other.labels + shift])
    return arrays


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="such as cifar10:PATH")
    parser.add_argument("second", help="such as cifar100:PATH")
    parser.add_argument("out", type=Path, help="the .npz file")
    choice = parser.parse_args()
    try:
        arrays = joined(open_dataset(choice.first), open_dataset(choice.second))
        with atomic_file(choice.out) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{choice.out}: {len(arrays['classes'])} classes, {len(arrays['y_train']):,}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
