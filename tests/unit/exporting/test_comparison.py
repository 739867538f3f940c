"""On which images an export is compared, and what is accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import Preprocess, UserError
from mlp_mixer.exporting import comparison
from mlp_mixer.exporting.comparison import (
    CheckImages,
    check_difference,
    check_images,
    measures,
)

RECORD = Preprocess((8, 12))
LABELS = ["cat", "dog"]


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(place)


def test_folders_named_as_labels_are_classes(tmp_path: Path) -> None:
    put(tmp_path / "photos", "cat/1.png", "dog/2.png", "dog/3.png")
    found = check_images(tmp_path / "photos", RECORD, LABELS)
    assert found.pixels.shape == (3, 8, 12, 3)
    assert found.classes is not None
    assert found.classes.tolist() == [0, 1, 1]
    assert found.described == "3 of 3 in photos"


def test_without_such_folders_there_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "elsewhere/2.png")
    assert check_images(tmp_path, RECORD, LABELS).classes is None


@pytest.mark.parametrize(
    "name", ["cat/._1.png", ".git/1.png", "__MACOSX/cat/1.png", "dog/.thumbs/2.jpg"]
)
def test_what_systems_leave_is_no_picture(tmp_path: Path, name: str) -> None:
    """As in a dataset: one such file of macOS refused the whole export."""
    put(tmp_path / "photos", "cat/1.png", "dog/2.png")
    place = tmp_path / "photos" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"no picture")
    found = check_images(tmp_path / "photos", RECORD, LABELS)
    assert found.described == "2 of 2 in photos"
    assert found.classes is not None


def test_a_folder_may_be_called_like_a_picture(tmp_path: Path) -> None:
    put(tmp_path / "photos", "cat/1.png", "dog/2.png", "dog/3.png/note.png")
    found = check_images(tmp_path / "photos", RECORD, LABELS)
    assert found.described == "3 of 3 in photos"


@pytest.mark.parametrize("spelled", ["caf\u00e9", "cafe\u0301"])
def test_accents_of_macos_are_classes(tmp_path: Path, spelled: str) -> None:
    put(tmp_path / "photos", f"{spelled}/1.png", "dog/2.png")
    found = check_images(tmp_path / "photos", RECORD, ["caf\u00e9", "dog"])
    assert found.classes is not None
    assert found.classes.tolist() == [0, 1] or found.classes.tolist() == [1, 0]


def test_many_images_are_thinned_out_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "MOST_IMAGES", 3)
    put(tmp_path / "photos", *[f"{number}.png" for number in range(9)])
    found = check_images(tmp_path / "photos", RECORD, LABELS)
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 3, 6]
    assert found.described == "3 of 9 in photos"


def test_images_are_made_up_without_a_folder() -> None:
    found = check_images(None, RECORD, LABELS)
    assert found.pixels.shape == (16, 8, 12, 3)
    assert found.pixels.dtype == np.uint8
    assert found.classes is None


@pytest.mark.parametrize("int8", [False, True])
def test_logits_that_are_not_numbers_are_not_accepted(int8: bool) -> None:
    ours = np.ones((2, 3), np.float32)
    theirs = {"logits": np.full((2, 3), np.nan), "runtime": "x"}
    with pytest.raises(UserError, match="gives other answers"):
        check_difference(ours, theirs, 1e-4, int8)


def test_differences_are_measured_by_the_largest_logit() -> None:
    ours = np.array([[100.0, 0.0]], np.float32)
    theirs = {"logits": ours + 5e-4, "runtime": "x"}
    check_difference(ours, theirs, 1e-5, int8=False)
    with pytest.raises(UserError, match="differ by 5.0e-04 where 1.0e-04 is accepted"):
        check_difference(ours, theirs, 1e-6, int8=False)


def test_measures_count_equal_answers_and_right_ones() -> None:
    ours = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    logits = np.array([[1.0, 0.5], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    side = {"logits": logits, "ms": [2, 1], "bytes": 2**21, "runtime": "x 1"}
    pixels = np.zeros((4, 2, 2, 1), np.uint8)
    labelled = CheckImages(pixels, np.array([0, 1, 1, 0]), "four", np.arange(4))
    row = measures(side, ours, labelled)
    assert (row["runtime"], row["mib"]) == ("x 1", 2)
    assert (row["ms_batch_1"], row["ms_batch_8"]) == (2, 1)
    assert row["difference"] == 2
    assert row["same_top1"] == 0.75
    assert (row["top1"], row["top1_n"]) == (0.5, 4)
    assert measures(side, ours, labelled._replace(classes=None))["top1"] is None
    # What the network has learnt from says nothing about its accuracy.
    row = measures(side, ours, labelled._replace(unseen=np.array([1, 2, 3])))
    assert (row["top1"], row["top1_n"]) == (pytest.approx(1 / 3), 3)
    row = measures(side, ours, labelled._replace(unseen=np.array([], int)))
    assert (row["top1"], row["top1_n"]) == (None, 0)
    assert row["same_top1"] == 0.75
