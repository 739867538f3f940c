"""Pictures without labels: every one of a folder is found, once and in one order."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import UserError
from mlp_mixer.data.pictures import read_pictures
from mlp_mixer.data.registry import open_pictures


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), number, np.uint8)).save(path)


def names(root: Path) -> list[str]:
    images, _ = read_pictures(root)
    return [images.name(index) for index in range(len(images))]


def test_pictures_at_any_depth_in_one_order(tmp_path: Path) -> None:
    put(tmp_path, "b/z.png", "b/c/d/a.jpg", "a.PNG", ".hidden.png", ".git/x.png")
    put(tmp_path, "__MACOSX/b.png")
    (tmp_path / "notes.txt").touch()
    assert names(tmp_path) == ["a.PNG", "b/c/d/a.jpg", "b/z.png"]
    images, where = read_pictures(tmp_path)
    assert images.classes == ("unlabelled",)
    assert images.image(2).shape == (6, 6, 3)
    assert where == repr(str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_is_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "a/x.png", "b/y.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert names(tmp_path) == ["a/x.png", "b/y.png"]


def test_of_splits_only_the_training_images_are_read(tmp_path: Path) -> None:
    put(tmp_path, "Train/x.png", "Train/deep/y.png", "test/z.png", "w.png")
    assert names(tmp_path) == ["Train/deep/y.png", "Train/x.png"]
    assert read_pictures(tmp_path)[1].startswith("'Train' of")


def test_what_is_no_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no pictures in"):
        open_pictures(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="there is no folder"):
        open_pictures(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match="unknown dataset 'digitz'"):
        open_pictures("digitz")


def test_labels_are_kept_where_there_are_some(tmp_path: Path) -> None:
    put(tmp_path, *(f"{label}/{k}.png" for label in "ab" for k in range(5)))
    dataset, note = open_pictures(f"folder:{tmp_path}")
    assert note == ""
    assert dataset.test is not None
    assert len(dataset.train) + len(dataset.test) == 10
    # A picture without a class: none of them has one then, and the note says why.
    put(tmp_path, "stray.png")
    dataset, note = open_pictures(str(tmp_path))
    assert dataset.test is None
    assert len(dataset.train) == 11
    assert note.startswith("all 11 pictures in")
    assert "stray.png' lies outside of any class" in note
