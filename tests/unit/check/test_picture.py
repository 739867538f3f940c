"""What `examine` says of single files; most kinds of faults are in test_folder.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.check import FolderFile, check_folder
from mlp_mixer.check.picture import examine

from ..images.tiffs import tiff

Photo = Callable[..., Image.Image]


def test_a_phones_pictures_and_endings_in_capitals_are_no_faults(
    tmp_path: Path, photo: Photo
) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
    preview = {"save_all": True, "append_images": [photo(2)]}
    photo(1).save(tmp_path / "a/1.jpg", "MPO", **preview)
    photo(3).save(tmp_path / "a/2.JPG")
    # The same bytes in another shape are another picture.
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "b/1.png")
    Image.fromarray(pixels.reshape(60, 40, 3)).save(tmp_path / "b/2.Png")
    found = check_folder(tmp_path, workers=1).findings
    assert {finding.kind for finding in found} == {"few-pictures"}


def test_a_picture_is_described_upright(tmp_path: Path, photo: Photo) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(1, size=(60, 40)).save(tmp_path / "1.jpg", exif=exif)
    findings, picture = examine(str(tmp_path), FolderFile("1.jpg", "val", "a"))
    assert [finding.kind for finding in findings] == ["turned"]
    assert picture is not None
    assert (picture.height, picture.width) == (60, 40)
    assert (picture.split, picture.label, picture.mode) == ("val", "a", "RGB")
    assert picture.tiny.shape == (16, 16, 3)


def test_an_unreadable_file_is_named_it_in_the_sentence(tmp_path: Path) -> None:
    findings, picture = examine(str(tmp_path), FolderFile("1.jpg", "train", "a"))
    assert picture is None
    assert [(finding.kind, finding.message) for finding in findings] == [
        ("unreadable", "cannot open it: No such file or directory")
    ]


@pytest.mark.parametrize("bits", [10, 12, 13])
@pytest.mark.parametrize("ending", ["png", "tif", "bands.tif"])
def test_few_bits_in_a_file_of_sixteen_are_told(
    tmp_path: Path, bits: int, ending: str
) -> None:
    """As microscopes and X-rays write; nearly black for a network."""
    deep = np.linspace(0, 2**bits - 1, 30 * 40).reshape(30, 40).astype(np.uint16)
    path = tmp_path / f"1.{ending}"
    several = ending == "bands.tif"
    if several:
        path.write_bytes(tiff([(np.stack([deep] * 5, axis=2), {})]))
    else:
        Image.fromarray(deep).save(path)
    file = FolderFile(path.name, "train", "a")
    findings, picture = examine(str(tmp_path), file, channels=5 if several else 3)
    assert picture is not None
    told = {finding.kind: finding.message for finding in findings}
    assert f"uses 1/{2 ** (16 - bits)} of the range" in told["dark"]


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_whole_ranges_and_dark_pictures_are_not_called_so(
    tmp_path: Path, kind: str
) -> None:
    top = {"u1": 40, "u2": 65535}[kind]
    pixels = np.linspace(0, top, 30 * 40).reshape(30, 40).astype(kind)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    findings, _ = examine(str(tmp_path), FolderFile("1.png", "train", "a"))
    assert "dark" not in {finding.kind for finding in findings}
