"""What is wrong with the folders themselves, and which files belong to which class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer.check import Check, FolderFile, check_folder
from mlp_mixer.data.layout import walk

Photo = Callable[..., Image.Image]


def found(check: Check) -> set[tuple[str, str]]:
    return {(finding.kind, finding.path) for finding in check.findings}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train/a", "train/b", "Train/a"), ("split-twice", "")),
        (("test/a", "test/b"), ("no-train", "")),
        ((), ("one-class", "")),
        (("a",), ("one-class", "")),
        (("train/a", "train/b", "val/c"), ("unknown-class", "val/c")),
        (("a", "b/c"), ("nested", "b/c")),
        (("a", "b/c"), ("no-pictures", "b")),
    ],
)
def test_what_is_wrong_with_folders(
    tmp_path: Path, photo: Photo, folders: tuple[str, ...], expected: tuple[str, str]
) -> None:
    for seed, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            picture = photo(10 * seed + number)
            picture.save(tmp_path / folder / f"{number}.png")
    assert expected in found(check_folder(tmp_path, workers=1))


def test_pictures_without_classes_are_looked_at(tmp_path: Path, photo: Photo) -> None:
    photo(1).save(tmp_path / "1.png")
    photo(1).save(tmp_path / "2.bmp")
    (tmp_path / "licences").mkdir()
    check = check_folder(tmp_path, workers=1)
    assert found(check) == {("no-classes", ""), ("duplicate", "2.bmp")}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path, write_sound: Callable[..., Path]) -> None:
    write_sound(tmp_path)
    (tmp_path / "train/sea/00.jpg").chmod(0)
    (tmp_path / "test/sea").chmod(0)
    expected = {
        ("unreadable", "train/sea/00.jpg"),
        ("no-access", "test/sea/"),
        ("vacant-class", "test/sea"),
    }
    assert found(check_folder(tmp_path, workers=1)) == expected


def test_files_know_their_split_and_class(tmp_path: Path) -> None:
    for name in ("Train/a/1.jpg", "Train/2.jpg", "validation/b/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    layout = walk(tmp_path)
    assert layout.files == [
        FolderFile("Train/2.jpg", "train", ""),
        FolderFile("Train/a/1.jpg", "train", "a"),
        FolderFile("validation/b/3.txt", "val", "b"),
    ]
    assert layout.classes == {
        "Train/a": FolderFile("Train/a", "train", "a"),
        "validation/b": FolderFile("validation/b", "val", "b"),
    }
