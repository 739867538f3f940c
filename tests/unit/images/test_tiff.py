"""TIFFs of bands: the values of other programs' files, and refusals before any work."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from mlp_mixer import UserError, decode_image
from mlp_mixer.images.refusals import CostlyError
from mlp_mixer.images.tiff import bands_of

from .tiffs import compressed, tiff

RNG = np.random.default_rng(0)


def values(shape: tuple[int, ...], kind: str) -> np.ndarray:
    numbers = RNG.random(shape)
    if kind[0] == "f":
        return numbers.astype(kind)
    return (numbers * np.iinfo(kind).max).astype(kind)


def eight_bits(image: np.ndarray) -> np.ndarray:
    """The nearest of 256 steps, in floats."""
    top = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
    return np.rint(image.astype(np.float64) / top * 255)


def count(data: bytes) -> int:
    return bands_of(io.BytesIO(data), "it").number


@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8"])
@pytest.mark.parametrize("bands", [2, 4, 5, 12])
@pytest.mark.parametrize("planar", [1, 2])
def test_bands_are_read_in_both_layouts(
    tmp_path: Path, kind: str, bands: int, planar: int
) -> None:
    image = values((7, 9, bands), kind)
    data = tiff([(image, {284: planar})])
    assert count(data) == bands
    path = tmp_path / "a.TIF"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        found = decode_image(source, channels=bands)
        np.testing.assert_array_equal(found, eight_bits(image))


METHODS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd"]


@pytest.mark.skipif(not features.check("libtiff"), reason="this Pillow has no libtiff")
@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_compressions_are_those_of_pictures(how: str, kind: str) -> None:
    image = values((40, 31, 6), kind)
    # Something to compress.
    image[:, 5:20] = image[:1, :1]
    try:
        data = compressed(image, how)
    except (OSError, RuntimeError):
        pytest.skip(f"this libtiff does not write {how}")
    np.testing.assert_array_equal(decode_image(data, channels=6), eight_bits(image))


@pytest.mark.parametrize(
    ("kind", "order", "planar", "more"),
    list(
        itertools.product(
            ["u1", "u2", "f4"],
            "<>",
            ["contig", "separate"],
            [
                {"tile": (16, 32)},
                {"bigtiff": True, "rowsperstrip": 10},
                {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
                {"compression": "lzma", "tile": (32, 16)},
            ],
        )
    ),
)
def test_files_of_tifffile_are_read_exactly(
    tmp_path: Path, kind: str, order: str, planar: str, more: dict
) -> None:
    tifffile = pytest.importorskip("tifffile")
    image = values((37, 53, 5), kind)
    given = image if planar == "contig" else image.transpose(2, 0, 1)
    if kind == "f4" and "predictor" in more:
        pytest.skip("tifffile alone does not write this predictor")
    path = tmp_path / "a.tif"
    how = {"photometric": "minisblack", "planarconfig": planar, "byteorder": order}
    tifffile.imwrite(path, np.ascontiguousarray(given), **how, **more)
    np.testing.assert_array_equal(decode_image(path, channels=5), eight_bits(image))


def test_differences_are_summed_in_every_type() -> None:
    """Predictor 2, and 3 as Adobe's note on floating point describes it."""
    whole = values((6, 8, 5), "u2")
    differences = np.diff(whole, axis=1, prepend=np.zeros((6, 1, 5), "u2"))
    found = decode_image(tiff([(differences, {317: 2})]), channels=5)
    np.testing.assert_array_equal(found, eight_bits(whole))
    floats = values((6, 8, 5), "f4")
    apart = floats.astype(">f4").view("u1").reshape(6, 40, 4).swapaxes(1, 2)
    flat = apart.reshape(6, 32, 5)
    stored = np.diff(flat, axis=1, prepend=np.zeros((6, 1, 5), "u1"))
    stored = np.ascontiguousarray(stored).reshape(6, -1).view("<f4").reshape(6, 8, 5)
    found = decode_image(tiff([(stored, {317: 3})]), channels=5)
    np.testing.assert_array_equal(found, eight_bits(floats))


def imagej(bands: int) -> bytes:
    return f"ImageJ=1.54f\nimages={bands}\nchannels={bands}\nmode=grayscale\n".encode()


def ome(bands: int) -> bytes:
    return f'<?xml?><OME><Pixels ID="P" SizeC="{bands}" SizeT="1"/></OME>'.encode()


@pytest.mark.parametrize(
    "says", [imagej(5), ome(5), b'{"shape": [5, 8, 9]}', b'{"shape": [5, 8, 9], "axes": "CYX"}']
)  # fmt: skip
def test_pages_are_bands_where_the_file_says_so(says: bytes) -> None:
    image = values((8, 9, 5), "u2")
    pages = [(image[..., band], {270: says}) for band in range(5)]
    data = tiff(pages)
    assert count(data) == 5
    np.testing.assert_array_equal(decode_image(data, channels=5), eight_bits(image))
    with pytest.raises(UserError, match="has 5 bands: expected gray or RGB"):
        decode_image(data)
    with pytest.raises(UserError, match="has 5 bands: expected an image of 4"):
        decode_image(data, channels=4)


def test_an_array_that_was_written_row_by_row_is_the_same_image() -> None:
    """tifffile makes a page of each row of an array (H, W, C) unless it is told more."""
    image = values((8, 9, 5), "u1")
    data = tiff([(row, {270: b'{"shape": [8, 9, 5]}'}) for row in image])
    assert count(data) == 5
    np.testing.assert_array_equal(decode_image(data, channels=5), image)


@pytest.mark.parametrize(
    "says",
    [
        b"a scan of three pages",
        b"ImageJ=1.54f\nimages=3\nframes=3\n",
        b'{"shape": [3, 8, 9], "axes": "TYX"}',
        b'{"shape": [3, 8, 10]}',
        b'{"shape": [3, 8, "x"]}',
        b"[" * 5000,
        b'<OME><Pixels SizeC="1" SizeT="3"/></OME>',
    ],
)
def test_of_other_pages_the_first_counts_unless_a_network_asks_for_all(
    says: bytes,
) -> None:
    image = values((8, 9, 4), "u1")[..., :3]
    data = tiff([(image[..., page], {270: says}) for page in range(3)])
    assert count(data) == 0
    first = image[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(decode_image(data), first)
    four = tiff([(image[..., page % 3], {270: says}) for page in range(4)])
    np.testing.assert_array_equal(decode_image(four, channels=4)[..., :3], image)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK", "P", "1", "I;16"])
def test_ordinary_pictures_are_none_of_bands(mode: str) -> None:
    picture = Image.new("L", (9, 7), 100)
    picture = (
        picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
    )
    file = io.BytesIO()
    picture.save(file, "TIFF")
    assert count(file.getvalue()) == 0
    assert decode_image(file.getvalue()).shape == (7, 9, 3)


def test_rgb_with_more_bands_is_both() -> None:
    image = values((7, 9, 5), "u1")
    data = tiff([(image, {262: 2, 338: [0, 0]})])
    assert count(data) == 5
    np.testing.assert_array_equal(decode_image(data), image[..., :3])
    np.testing.assert_array_equal(decode_image(data, channels=5), image)
    # Three bands that are not called RGB, of types that Pillow does not know so.
    for kind in ("u1", "u2", "f4"):
        three = values((7, 9, 3), kind)
        found = decode_image(tiff([(three, {338: [0, 0]})]))
        np.testing.assert_array_equal(found, eight_bits(three))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    gray = values((7, 9), "u1")
    picture = tiff([(gray, {274: orientation})])
    bands = tiff([(gray[..., None].repeat(5, axis=2), {274: orientation})])
    expected = decode_image(picture)[..., :1].repeat(5, axis=2)
    np.testing.assert_array_equal(decode_image(bands, channels=5), expected)


def test_smaller_copies_and_masks_are_no_pages() -> None:
    image = values((8, 9, 5), "u1")
    data = tiff([(image[::2, ::2], {254: 1}), (image, {}), (image[..., :1], {254: 4})])
    np.testing.assert_array_equal(decode_image(data, channels=5), image)


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("i2", {}, "values of int16, whose range is unknown"),
        ("u4", {}, "values of uint32, whose range is unknown"),
        ("u1", {258: [12] * 5}, "few or mixed bits, whose range is unknown"),
        ("u1", {258: [8, 8, 16, 8, 8]}, "mixed bits"),
        ("u1", {259: 7}, "has the compression 7"),
        ("u1", {317: 3}, "has the predictor 3"),
        ("u1", {279: [2**30] * 8}, "cut short"),
        ("u1", {273: [8] * 7}, "do not fit"),
        ("u1", {257: 9}, "it has 8 strips or tiles, expected 9"),
        ("u1", {277: 0}, "of 0 values"),
    ],
)
def test_what_cannot_be_read_is_said(kind: str, more: dict, message: str) -> None:
    data = tiff([(values((8, 9, 5), kind), more)])
    with pytest.raises(UserError, match=message) as caught:
        decode_image(data, channels=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [1.5, -0.5, np.nan])
def test_floats_go_from_zero_to_one(number: float) -> None:
    image = values((8, 9, 5), "f4")
    image[3, 3, 3] = number
    with pytest.raises(UserError, match="cannot read an array of floats"):
        decode_image(tiff([(image, {})]), channels=5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({256: 2**20, 257: 2**20, 278: 2**20, 273: 8, 279: 8}, "is too large"),
        ({256: 8000, 257: 8000, 278: 8000, 273: 8, 279: 8}, "is too large: its bands"),
        ({322: 2**15, 323: 2**15, 324: 8, 325: 8}, "is too large: its bands"),
        ({256: 4000, 279: [360] * 8, 273: [8] * 8}, None),
        ({273: [8] * 8, 279: [20_000] * 8}, "again and again"),
    ],
)
def test_claims_are_bounded_before_memory_is_asked_for(
    more: dict, message: str | None
) -> None:
    data = tiff([(values((8, 9, 5), "u1"), more)]) + bytes(20_000)
    error = CostlyError if message else UserError
    with pytest.raises(error, match=message or "damaged|cut short"):
        decode_image(data, channels=5)


def test_directories_that_go_in_a_circle_end() -> None:
    data = bytearray(tiff([(values((8, 9, 5), "u1"), {})]))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * entries, start)
    assert decode_image(bytes(data), channels=5).shape == (8, 9, 5)


def test_no_cut_and_no_flipped_byte_ends_in_anything_but_a_sentence() -> None:
    whole = compressed(values((12, 9, 5), "u1"), "tiff_lzw")
    plain = tiff([(values((6, 5, 4), "u2"), {284: 2, 317: 2})])
    for data in (whole, plain):
        for place in range(0, len(data), 3):
            flipped = bytearray(data)
            flipped[place] ^= 1 << place % 8
            for broken in (data[:place], bytes(flipped)):
                for channels in (3, 5):
                    with contextlib.suppress(UserError):
                        decode_image(broken, channels=channels)


@pytest.mark.parametrize("kind", [0, 2, 5, 11, 12, 255])
@pytest.mark.parametrize("tag", [256, 258, 273, 277, 278, 284, 317, 339])
def test_tags_of_other_types_end_in_a_sentence(tag: int, kind: int) -> None:
    data = bytearray(tiff([(values((6, 5, 4), "u2"), {284: 2, 317: 2})]))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<H", data, place + 2, kind)
    with contextlib.suppress(UserError):
        decode_image(bytes(data), channels=4)
