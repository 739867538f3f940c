"""What files claim is bounded before a decoder believes it; ordinary ones pass.

Each file of `tests/hostile_files.py` costs a naive reader minutes or gigabytes. That
ours take seconds is measured by `benchmarks/attack.py`; here they must be refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.images.claims import CountedReads, check_claims, check_exif
from mlp_mixer.images.decode import decode_image
from mlp_mixer.images.opening import Bounds, open_image
from mlp_mixer.images.refusals import CostlyError


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = load(Path(__file__).parents[2] / "hostile_files.py")
SIZE = 2**21
# A bound refuses them before a pixel is decoded.
REFUSED = {
    "jpeg_with_scans": "scans, at most 200",
    "jpeg_with_comments": "10,000 markers",
    "jpeg_with_padding": "250,000 pieces",
    "jpeg_with_garbage": "250,000 pieces",
    "jpeg_with_exif": "tags of",
    "jpeg_with_second_pictures": "tags of",
    "png_with_chunks": "250,000 pieces",
    "png_with_exif": "tags of",
    "png_with_exif_in_text": "tags of",
    "png_that_claims_pixels": "too large",
    "gif_with_comments": "250,000 pieces",
    "gif_with_extensions": "250,000 pieces",
    "gif_that_claims_pixels": "too large",
    "webp_that_claims_pixels": "too large",
    "webp_with_exif": "tags of",
    "bmp_of_short_runs": "250,000 pieces",
    "ico_of_a_large_png": "9000 x 9000 pixels inside",
    "ico_of_a_large_bitmap": "30000 x 30000 pixels inside",
    "ico_with_two_headers": "20000 x 20000 pixels inside",
    "tiff_of_tiny_tiles": "strips, at most",
    "tiff_of_a_huge_tile": "tiles of",
    "tiff_of_tags": "tags of",
    "jpeg2000_of_tiny_tiles": "tiles, at most",
    "ppm_with_a_comment": "250,000 pieces",
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files_are_refused_for_what_they_claim(name: str) -> None:
    data = getattr(hostile, name)(SIZE)
    with pytest.raises(CostlyError, match=REFUSED[name]):
        decode_image(data)


def test_most_hostile_files_are_refused_and_the_others_are_known() -> None:
    assert set(REFUSED) < set(hostile._MADE)
    assert len(hostile._MADE) > 30


@pytest.mark.parametrize(
    "name", ["scans_small.jpg", "tiles.j2k", "ico_bomb.ico", "poly.tif"]
)
def test_files_that_broke_a_server_are_refused(shared: Path, name: str) -> None:
    path = shared / "data" / "hostile" / name
    with (
        pytest.raises(CostlyError),
        path.open("rb") as file,
        open_image(file, bounds=Bounds(max_pixels=50_000_000)),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(1, 1), (37, 200), (900, 700)])
def test_ordinary_files_pass(form: str, size: tuple[int, int]) -> None:
    data = hostile.picture(form, size)
    check_claims(data, "the image", 64_000_000)
    assert decode_image(data).shape[1::-1] == size


def test_an_ordinary_icon_passes() -> None:
    assert decode_image(hostile.picture("ICO", (48, 48))).shape == (48, 48, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"exif": b"Exif\0\0" + hostile.tags(500, 20)},
        {"comment": b"x" * 60_000},
        {"icc_profile": bytes(500_000)},
    ],
    ids=["progressive", "exif", "comment", "profile"],
)
def test_jpegs_with_all_that_cameras_write_pass(options: dict[str, object]) -> None:
    data = hostile.picture("JPEG", (300, 200), **options)
    assert decode_image(data).shape == (200, 300, 3)


def test_a_hundred_scans_are_no_attack() -> None:
    jpeg = hostile.picture("JPEG", (64, 64), progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    assert decode_image(jpeg[:-2] + jpeg[last:-2] * 100 + jpeg[-2:]).shape[0] == 64


def test_a_png_in_pieces_as_encoders_write_them_passes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    data = file.getvalue()
    packed = b""
    place = data.index(b"IDAT") - 4
    head = data[:place]
    while data[place + 4 : place + 8] == b"IDAT":
        (length,) = struct.unpack_from(">I", data, place)
        packed += data[place + 8 : place + 8 + length]
        place += length + 12
    pieces = [packed[i : i + 4096] for i in range(0, len(packed), 4096)]
    chunks = b"".join(hostile.chunk(b"IDAT", piece) for piece in pieces)
    whole = head + chunks + hostile.chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_image(whole), noise)


def test_strips_of_single_rows_pass() -> None:
    file = io.BytesIO()
    tall = Image.new("L", (3, 20_000), 9)
    tall.save(file, "TIFF", tiffinfo={278: 1})
    assert (decode_image(file.getvalue(), channels=1) == 9).all()


def test_any_cut_of_a_hostile_file_ends_in_a_user_error_or_pixels() -> None:
    """The bounds themselves never fall over what is missing."""
    dice = np.random.default_rng(1)
    for name, make in hostile._MADE.items():
        if "many_pixels" in name:
            continue
        data = make(5_000)
        for length in dice.integers(1, min(len(data), 5_000), 8):
            check = data[:length]
            with contextlib.suppress(CostlyError):
                check_claims(check, name, 64_000_000)
                check_exif(check, name)
            with contextlib.suppress(UserError):
                decode_image(check)


def test_reads_are_counted() -> None:
    file = CountedReads(b"abc")
    file.left = 2
    assert file.read(1) + file.read() == b"abc"
    with pytest.raises(CostlyError, match="pieces"):
        file.read(1)


def test_only_chosen_formats_are_opened() -> None:
    data = hostile.picture("PNG")
    bounds = Bounds(("JPEG", "GIF"))
    with (
        pytest.raises(UserError, match=r"known format \(GIF, JPEG\)"),
        open_image(io.BytesIO(data), bounds=bounds),
    ):
        pytest.fail("it was opened")
