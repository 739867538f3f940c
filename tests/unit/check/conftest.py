"""Pictures without faults, and folders of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"meadow": (60, 160, 60), "sea": (40, 90, 190), "desert": (210, 150, 60)}


def make_photo(
    seed: int, colour: str = "sea", size: tuple[int, int] = (96, 80)
) -> Image.Image:
    """Draw a smooth random picture of a colour; no two look alike."""
    noise = np.random.default_rng(seed).normal(0, 45, (7, 7, 3))
    field = (noise + COLOURS[colour]).clip(0, 255).astype(np.uint8)
    return Image.fromarray(field).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photo() -> Callable[..., Image.Image]:
    return make_photo


@pytest.fixture
def write_sound() -> Callable[..., Path]:
    """Writes a folder without faults: two splits of three classes."""

    def write(root: Path, train: int = 30, test: int = 8) -> Path:
        seeds = itertools.count()
        for split, count in (("train", train), ("test", test)):
            for label in COLOURS:
                folder = root / split / label
                folder.mkdir(parents=True)
                for number in range(count):
                    picture = make_photo(next(seeds), label)
                    picture.save(folder / f"{number:02d}.jpg", quality=90)
        return root

    return write
