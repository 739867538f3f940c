"""A checkpoint is evaluated on images it has never seen."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer import (
    Checkpoint,
    Predictor,
    Preprocess,
    UserError,
    create_model,
    evaluate,
    open_dataset,
)
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.evaluation import eval_split
from mlp_mixer.evaluation.splits import support_and_eval_split
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


def only_test(place: Path, kind: str) -> str:
    """Write the test images alone, as several kinds of datasets have them."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, 6, 6, 3), dtype=np.uint8)
    labels = [0, 1, 0, 1, 0, 1]
    if kind == "npz":
        path = place / "t.npz"
        np.savez(path, x_test=pixels, y_test=labels, classes=["a", "b"])
        return f"npz:{path}"
    rows = ["path,label,split"]
    tars: list[tuple[str, bytes]] = []
    for number, label in enumerate(labels):
        name = f"test/{'ab'[label]}/{number}.png"
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(place / name)
        rows.append(f"{name},{'ab'[label]},test")
        tars.append((f"{number}.png", (place / name).read_bytes()))
        tars.append((f"{number}.cls", str(label).encode()))
    if kind == "list":
        (place / "t.csv").write_text("\n".join(rows))
        return str(place / "t.csv")
    if kind == "val":
        (place / "test").rename(place / "val")
    if kind == "shards":
        with tarfile.open(place / "x-test-0.tar", "w") as tar:
            for name, data in tars:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return f"shards:{place}"
    return f"folder:{place}"


@pytest.mark.parametrize("kind", ["folder", "val", "list", "npz", "shards"])
def test_a_test_set_alone_is_evaluated_on_and_not_learnt_from(
    tmp_path: Path, kind: str
) -> None:
    spec = only_test(tmp_path, kind)
    chosen = eval_split(spec, {})
    assert (len(chosen.images), chosen.split) == (6, "test")
    assert chosen.images.labels.tolist().count(1) == 3
    with pytest.raises(UserError, match="no training images, only those of a test"):
        eval_split(spec, {}, "train")
    with pytest.raises(UserError, match="has .* but no train: expected"):
        open_dataset(spec)
    with pytest.raises(UserError, match="has .* but no train: expected"):
        support_and_eval_split(spec, {})


@pytest.mark.parametrize("kind", ["flat folder", "test folder", "list", "npz"])
def test_images_of_one_known_class_are_evaluated_on(tmp_path: Path, kind: str) -> None:
    """How many of these dogs are seen is a question, though no network learns from it."""
    top = tmp_path / "test" if kind == "test folder" else tmp_path
    (top / "b").mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(top / f"b/{number}.png")
    spec = f"folder:{tmp_path}"
    if kind == "list":
        rows = [f"b/{number}.png,b" for number in range(4)]
        (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows]))
        spec = str(tmp_path / "l.csv")
    if kind == "npz":
        arrays = {"x_test": pixels, "y_test": np.zeros(4, int), "classes": ["b"]}
        np.savez(tmp_path / "b.npz", **arrays)
        spec = f"npz:{tmp_path / 'b.npz'}"
    model = create_model("mixer_pico2", num_classes=3, image_size=8)
    torch.nn.init.normal_(model.head.weight)
    checkpoint = Checkpoint(model, Preprocess((8, 8)), labels=("a", "b", "c"))
    result = evaluate(checkpoint, spec, device="cpu")
    answers = Predictor(checkpoint).predict(list(pixels))
    right = sum(answer.pred_class == "b" for answer in answers)
    assert (result.n, result.top1) == (4, right / 4)
    # It cannot be known which of three nameless classes is b.
    nameless = dataclasses.replace(checkpoint, labels=None)
    with pytest.raises(UserError, match="have 1 classes.*has 3 without names"):
        evaluate(nameless, spec, device="cpu")
