"""The page of a check shows faults with pictures, classes, sizes and contact sheets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer.check import check_folder
from mlp_mixer.check.page import write_check_page

JPEG = "data:image/jpeg;base64,"


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[..., Image.Image]) -> Path:
    """Two classes; a copy, a broken file, and names that look like markup."""
    root = tmp_path / "<i>mine"
    for label in ("meadow & hill", "sea"):
        (root / label).mkdir(parents=True)
    for number in range(3):
        photo(number, "meadow").save(root / "meadow & hill" / f"{number}.png")
    for number in range(2):
        photo(10 + number, "sea", (300, 200)).save(root / "sea" / f"{number}.png")
    photo(10, "sea", (300, 200)).save(root / "sea" / "0 copy.bmp")
    (root / "sea" / "broken.png").write_bytes(b"<b>")
    return root


def test_everything_is_on_the_page(folder: Path, tmp_path: Path) -> None:
    check = check_folder(folder, workers=1)
    page = write_check_page(check, tmp_path / "check.html").read_text("utf-8")
    assert "&lt;i&gt;mine" in page
    assert "<i>" not in page
    assert "duplicate: 1" in page
    assert "no-image: 1" in page
    assert "is not an image in a known format" in page
    assert ">3<" in page, "no split, so no name of one"
    assert " train<" not in page
    assert "Check of &lt;i&gt;mine" in page
    assert "64–127 px" in page
    assert "128–223 px" in page
    # Contact sheets of six pictures, and a copy beside its original.
    assert page.count(JPEG) == 6 + 2


def test_the_page_is_complete_and_asks_for_nothing(
    folder: Path, tmp_path: Path
) -> None:
    check = check_folder(folder, workers=1)
    page = write_check_page(check, tmp_path / "check.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert "default-src 'none'" in page
    assert "--paper:" in page, "the style of the report"
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "<script" not in page


def test_a_picture_that_is_gone_by_now_leaves_a_gap(
    folder: Path, tmp_path: Path
) -> None:
    check = check_folder(folder, workers=1)
    (folder / "sea/1.png").unlink()
    page = write_check_page(check, tmp_path / "check.html").read_text("utf-8")
    assert page.count(JPEG) == 5 + 2


def test_a_sound_folder_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check = check_folder(tmp_path / "empty", workers=1)
    page = write_check_page(check, tmp_path / "check.html").read_text("utf-8")
    assert "one-class: 1" in page


def test_a_sheet_says_how_many_pictures_it_leaves_out(
    tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    check = check_folder(write_sound(tmp_path / "photos", train=26, test=3), workers=1)
    page = write_check_page(check, tmp_path / "check.html").read_text("utf-8")
    assert page.count(">24 of 29 shown<") == 3
    assert ">3 test + 26 train<" in page
