"""Every default beats what costs nothing: the most frequent class, ridge on raw pixels.

And the longer way is not worse than the shorter one: `finetune` than `finetune --frozen`.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import RidgeClassifier

import mlp_mixer as mm
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.evaluation import Evaluation

CPU = {"train.device": "cpu", "train.threads": 1, "data.workers": 0}
SIDE = 32  # pixels of an image for the ridge regression, as in published baselines


def most_frequent(train: ImageSet, test: ImageSet) -> float:
    answer = np.bincount(train.labels).argmax()
    return float((test.labels == answer).mean())


def ridge_on_pixels(train: ImageSet, test: ImageSet) -> float:
    model = RidgeClassifier(alpha=1000.0)
    model.fit(_pixels(train), train.labels)
    return float(model.score(_pixels(test), test.labels))


def _pixels(images: ImageSet) -> np.ndarray:
    rows = []
    for index in range(len(images)):
        picture = Image.fromarray(images.image(index).squeeze()).resize((SIDE, SIDE))
        rows.append(np.asarray(picture, dtype=np.float64).ravel())
    return np.stack(rows)


def standard_error(result: Evaluation) -> float:
    return float(np.sqrt(result.top1 * (1 - result.top1) / result.n))


def measured(run: Path, data: str | mm.Dataset) -> Evaluation:
    result = mm.evaluate(run, data, device="cpu")
    assert isinstance(result, Evaluation)
    return result


def test_digits_in_a_tenth_of_its_epochs(tmp_path: Path) -> None:
    mm.train("digits", tmp_path, epochs=6, settings=CPU)
    dataset = mm.open_dataset("digits")
    assert dataset.test is not None
    result = measured(tmp_path, "digits")
    assert result.top1 > most_frequent(dataset.train, dataset.test) + 0.5
    assert result.top1 > ridge_on_pixels(dataset.train, dataset.test)


@pytest.fixture(scope="module")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 photos of ten classes to learn from, and 500 others."""
    root = tmp_path_factory.mktemp("photos")
    with tarfile.open(shared / "data/photos/imagenette224_sub.tar") as tar:
        tar.extractall(root, filter="data")
    (root / "imagenette224" / "val").rename(root / "imagenette224" / "test")
    for split, kept in (("train", 30), ("test", 50)):
        for folder in (root / "imagenette224" / split).iterdir():
            for path in sorted(folder.iterdir())[kept:]:
                path.unlink()
    return root / "imagenette224"


def test_finetuning_on_photos(photos: Path, tmp_path: Path) -> None:
    data = f"folder:{photos}"
    dataset = mm.open_dataset(data)
    assert dataset.test is not None
    mm.finetune(None, data, tmp_path / "frozen", frozen=True, settings=CPU)
    frozen = measured(tmp_path / "frozen", data)
    assert frozen.top1 > ridge_on_pixels(dataset.train, dataset.test) + 0.1

    settings = {**CPU, "train.epochs": 2}
    mm.finetune(None, data, tmp_path / "tuned", settings=settings)
    tuned = measured(tmp_path / "tuned", data)
    assert tuned.top1 > frozen.top1 - standard_error(frozen)


def test_photos_from_scratch(photos: Path, tmp_path: Path) -> None:
    """A few of its epochs at half of its size, which is quick."""
    data = f"folder:{photos}"
    dataset = mm.open_dataset(data)
    assert dataset.test is not None
    settings = {**CPU, "model.image_size": 32, "model.patch_size": 4}
    mm.train("photos", tmp_path, data=data, settings=settings, epochs=10)
    scratch = measured(tmp_path, data)
    ridge = ridge_on_pixels(dataset.train, dataset.test)
    assert scratch.top1 > ridge - standard_error(scratch)
    assert scratch.top1 > 2 * most_frequent(dataset.train, dataset.test)
