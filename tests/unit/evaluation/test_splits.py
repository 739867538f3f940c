"""A checkpoint is evaluated on images it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import UserError, open_dataset
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.evaluation import eval_split
from mlp_mixer.training.config import DataChoice
from mlp_mixer.training.splits import split_validation


def provenance(spec: str, seed: int, fraction: float = 0.2) -> dict[str, Any]:
    """As 0.1.0 wrote it, which split by position and remembered no images."""
    source = open_dataset(
        spec, split_seed=seed, test_fraction=fraction, split_by="position"
    )
    data = {
        "fingerprint": source.fingerprint(),
        "split_seed": seed,
        "test_fraction": fraction,
    }
    return {"data": data}


def names(images: ImageSet) -> set[str]:
    return {images.name(i) for i in range(len(images))}


@pytest.mark.parametrize(("seed", "fraction"), [(0, 0.2), (3, 0.2), (0, 0.4)])
def test_the_held_out_part_of_0_1_0_is_found_again(seed: int, fraction: float) -> None:
    chosen = eval_split("digits", provenance("digits", seed, fraction))
    source = open_dataset(
        "digits", split_seed=seed, test_fraction=fraction, split_by="position"
    )
    choice = DataChoice(split_seed=seed, test_fraction=fraction)
    train, val = split_validation(source, choice)
    assert val is not None
    seen = names(train) | names(val)
    evaluated = names(chosen.images)
    assert not seen & evaluated
    assert len(seen | evaluated) == 1797
    assert f"{100 * fraction:g} % held out by seed {seed}" in chosen.split


def test_of_a_dataset_never_trained_on_all_images_are_used() -> None:
    chosen = eval_split("digits", {})
    assert (len(chosen.images), chosen.split) == (1797, "all images")
    assert len(eval_split("digits", provenance("digits", 0), "all").images) == 1797
    assert len(eval_split("digits", provenance("digits", 0), "train").images) == 1438


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


def test_a_test_split_of_its_own_is_used(folder: Path) -> None:
    chosen = eval_split(f"folder:{folder}", {})
    assert (len(chosen.images), chosen.split) == (4, "test")
    assert len(eval_split(f"folder:{folder}", {}, "train").images) == 8
    with pytest.raises(UserError, match="has a test split of its own"):
        eval_split(f"folder:{folder}", {}, "all")
