"""The contact sheet: every cell is what a training run would compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer.cli import run
from mlp_mixer.config import override
from mlp_mixer.data import open_dataset
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.images.mix import apply, mix_plan
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training.config import TrainConfig
from mlp_mixer.training.contact_sheet import contact_sheet
from mlp_mixer.training.run import prepare


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


WEIGHTS = ["model.init=mixer_nano4.cifar10", "model.in_channels=1", "model.gelu=none"]
SETTINGS = [
    "augment.policy=randaugment_bv",
    "augment.erase=0.5",
    "augment.flip=true",
    "train.seed=3",
]


def draw(out: Path, *arguments: str, settings: list[str] | None = None) -> int:
    given = [
        part
        for setting in (SETTINGS if settings is None else settings)
        for part in ("--set", setting)
    ]
    return call("augment", "--data", "digits", "--out", out, *arguments, *given)


def pictures(path: Path) -> np.ndarray:
    """The part of a sheet below the titles and beside the classes."""
    sheet = np.asarray(Image.open(path))
    gray = sheet if sheet.ndim == 2 else sheet[..., 0]
    # The frame of the pictures is 128, and reaches the right edge; the paper is 250.
    top = int((gray[:, -1] == 128).argmax())
    left = int((gray[top] == 128).argmax())
    assert min(top, left) > 10
    return sheet[top:, left:]


def cells(path: Path) -> np.ndarray:
    """The pictures on a sheet (rows, columns, side, side), of all its parts."""
    sheet = pictures(path)
    # Between two parts lies the paper of the titles.
    starts = np.flatnonzero(np.diff((sheet[:, -1] == 128).astype(int), prepend=0) == 1)
    parts = []
    for part in np.split(sheet, starts[1:]):
        titles = np.flatnonzero(part[:, -1] != 128)
        parts.append(cells_of(part[: titles[0]] if len(titles) else part))
    return np.concatenate(parts)


def cells_of(sheet: np.ndarray, side: int = 8, scale: int = 12) -> np.ndarray:
    """The pictures of a part, which must be whole, each pixel a square of that scale."""
    pitch = side * scale + 2
    rows, columns = ((length - 2) // pitch for length in sheet.shape[:2])
    assert sheet.shape[:2] == (rows * pitch + 2, columns * pitch + 2)
    result = np.empty((rows, columns, side, side), np.uint8)
    expected = np.full_like(sheet, 128)
    for row in range(rows):
        for column in range(columns):
            place = (
                slice(row * pitch + 2, (row + 1) * pitch),
                slice(column * pitch + 2, (column + 1) * pitch),
            )
            result[row, column] = sheet[place][::scale, ::scale]
            expected[place] = result[row, column].repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_array_equal(sheet, expected)
    return result


def training(*settings: str) -> tuple[TrainConfig, TrainBatches]:
    config = override(
        get_recipe("digits"), ["data.source=digits", *SETTINGS, *settings]
    )
    return config, prepare(config).batches()


def test_rows_are_images_and_columns_are_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "sheet.png"
    assert draw(out, "--count", "5", "--variants", "3") == 0
    printed = capsys.readouterr().out
    assert f"wrote 5 images of digits with 3 variants each to {out}" in printed
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]
    found = cells(out)
    assert found.shape == (5, 4, 8, 8)
    _, batches = training()
    first = batches[0]
    plain = open_dataset("digits").train
    for row, index in enumerate(first.indices[:5].tolist()):
        np.testing.assert_array_equal(
            found[row, 0], batches.images.image(index)[..., 0]
        )
        np.testing.assert_array_equal(found[row, 1], first.images[row, 0])
        for epoch in range(3):
            seen = batches.pixels(np.array([epoch]), np.array([index]))
            np.testing.assert_array_equal(found[row, 1 + epoch], seen[0, 0])
    assert len(plain) > len(
        batches.images
    )  # what chooses the best checkpoint is not augmented, nor shown
    assert not (found[:, 1] == found[:, 2]).all()


@pytest.mark.parametrize(
    "mixing", [["mix.cutmix=1"], ["mix.mixup=0.5", "mix.group=4"], []]
)
@pytest.mark.parametrize("repeats", [1, 2])
def test_mixed_rows_are_the_first_batches(
    tmp_path: Path, mixing: list[str], repeats: int
) -> None:
    """Without a setting, what the paper does to ImageNet."""
    out = tmp_path / "sheet.png"
    more = [*mixing, f"data.repeats={repeats}"]
    code = draw(
        out, "--count", "2", "--variants", "4", "--mix", settings=[*SETTINGS, *more]
    )
    assert code == 0
    found = cells(out)
    assert found.shape == (6, 5, 8, 8)
    config, batches = training(*(more if mixing else [*more, "mix.mixup=0.5"]))
    for step in range(4):
        plan = mix_plan(config.mix, 3, step, (8, 8))
        batch = batches[step]
        mixed, _ = apply(plan, batch.images, batch.labels, 10, config.mix.group)
        np.testing.assert_array_equal(
            found[2 + step], mixed[:5, 0].round().to(torch.uint8)
        )


def test_no_more_rows_than_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x_train=pixels, y_train=np.arange(10) % 2)
    out = tmp_path / "sheet.png"
    arguments = [
        "--data",
        str(tmp_path / "few.npz"),
        "--recipe",
        "digits",
        "--out",
        str(out),
    ]
    means = ["--set", "preprocess.mean=0.5", "--set", "preprocess.std=0.5"]
    assert call("augment", *arguments, *means, "--count", "50", "--variants", "1") == 0
    sheet = pictures(out)
    assert sheet.shape[2:] == (3,)
    assert 1 < (len(sheet) - 2) // 98 < 10


def test_pictures_of_photos_are_made_small(tmp_path: Path) -> None:
    """A source without a recipe of its own takes that for photos."""
    colours = np.random.default_rng(0).integers(0, 256, (12, 3))
    for number, colour in enumerate(colours):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), tuple(colour.tolist())).save(path)
    out = tmp_path / "sheet.png"
    code = call(
        "augment",
        "--data",
        tmp_path / "photos",
        "--out",
        out,
        "--count",
        "2",
        "--variants",
        "1",
    )
    assert code == 0
    sheet = pictures(out)
    rows, columns, _ = sheet.shape
    assert rows == columns
    assert rows <= 2 * 130 + 2
    small = tmp_path / "sheet.jpg"
    arguments = ["--data", tmp_path / "photos", "--out", small, "--count", "2"]
    assert call("augment", *arguments, "--variants", "1") == 0
    with Image.open(small) as smaller, Image.open(out) as exact:
        assert (smaller.format, smaller.size) == ("JPEG", exact.size)


def test_titles_stand_above_columns_and_classes_beside_rows(tmp_path: Path) -> None:
    config = override(get_recipe("digits"), ["data.source=digits"])
    sheet = contact_sheet(config, count=3, variants=2, mix=True)
    top, left = sheet.corner
    title = sheet.image[:top, left:, 0]
    beside = sheet.image[top:, :left, 0]
    for part in np.split(title[:, : 3 * (title.shape[1] // 3)], 3, axis=1):
        assert (part < 100).any(), "a column without a title"
    pitch = 8 * 12 + 2
    # The mixed rows have titles of their own above them.
    starts = [row * pitch for row in range(3)]
    starts += [3 * pitch + 2 + top + row * pitch for row in range(4)]
    for start in starts:
        written = beside[start : start + pitch]
        assert (written < 100).any(), "a row without a class"
    # Nothing but paper between the words and the pictures.
    assert (sheet.image[:top, :left] == 250).all()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ([], ["augment.policy=randaug"], "did you mean 'randaugment'"),
        ([], ["augment.erase=2"], "augment.erase must be a probability"),
        (["--recipe", "digit"], [], "did you mean 'digits'"),
        (["--count", "0"], [], "'--count'"),
        (["--mix"], ["mix.group=3"], "mix.group 3 does not divide the 64 images"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_file(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    settings: list[str],
    message: str,
) -> None:
    assert draw(tmp_path / "sheet.png", *arguments, settings=settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [
        # Another split of the same images, as runs of 0.1.0 have it.
        ["data.split_by=position"],
        # The size of the network follows from more than its name.
        ["model.patch_size=3", "model.image_size=12"],
        WEIGHTS,
        [*WEIGHTS, "model.image_size=64"],
    ],
)
def test_the_sheet_has_the_images_of_the_run(settings: list[str]) -> None:
    config = override(get_recipe("digits"), settings)
    run = prepare(config)
    sheet = contact_sheet(config, count=2, variants=1)
    top, left = sheet.corner
    height, width = run.preprocess.image_size
    drawn = sheet.image[top:, left:]
    # Two rows and two columns, enlarged by whole factors, with frames of two pixels.
    scale = max(1, 96 // max(height, width))
    assert drawn.shape[:2] == (2 * height * scale + 6, 2 * width * scale + 6)
    first = run.batches()[0].images[0].permute(1, 2, 0).numpy()
    cell = drawn[2 : 2 + height * scale : scale, 4 + width * scale : -2 : scale]
    np.testing.assert_array_equal(cell, first)


def test_a_place_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(tmp_path, "--count", "1") == 2
    assert "cannot write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
