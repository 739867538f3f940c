import contextlib
import csv
import importlib.util
import io
import os
import re
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.images import decode, opening
from mlp_mixer.images.decode import Part, decode_image

BESIDE = Path(__file__).parents[4] / "shared"
SHARED = Path(os.environ.get("MLP_MIXER_SHARED", BESIDE)) / "data/bad_images"


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        length = struct.pack(">I", len(body))
        check = struct.pack(">I", zlib.crc32(kind + body))
        return length + kind + body + check

    one_bit_gray = bytes([1, 0, 0, 0, 0])
    header = struct.pack(">II", width, height) + one_bit_gray
    chunks = [
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(b"")),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return noise(6, 9, 3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(picture, kind, tmp_path):
    data = encoded(Image.fromarray(picture), kind)
    path = tmp_path / "no_ending"
    path.write_bytes(data)
    for source in (data, path, str(path), Image.fromarray(picture), picture):
        np.testing.assert_array_equal(decode_image(source), picture)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_uint8(mode, channels):
    pixels = decode_image(Image.new(mode, (5, 4)), channels=channels)
    assert pixels.shape == (4, 5, channels)
    assert pixels.dtype == np.uint8


def test_gray_is_repeated_over_rgb():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(decode_image(gray), np.stack([gray] * 3, axis=2))
    np.testing.assert_array_equal(
        decode_image(gray[..., None], channels=1)[..., 0], gray
    )


def test_transparency_lies_on_white():
    half = np.full((2, 2, 4), (200, 100, 0, 128), dtype=np.uint8)
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    clear_gray = np.zeros((2, 2, 2), dtype=np.uint8)
    assert decode_image(half)[0, 0].tolist() == [227, 177, 127]
    assert (decode_image(clear) == 255).all()
    assert (decode_image(clear_gray, channels=1) == 255).all()


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    pixels = decode_image(encoded(image, "PNG", transparency=0))
    assert pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(values), kind)
        pixels = decode_image(data, channels=1)
        assert pixels.ravel().tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode):
    with pytest.raises(UserError, match="unknown range: save it with 8 or 16 bits"):
        decode_image(Image.new(mode, (2, 2), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((32, 64), dtype=np.uint8)
    upright[:16, :32] = 255  # white top left
    # How a camera stores it, so that the orientation turns it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    image = Image.fromarray(np.ascontiguousarray(stored[orientation]))
    data = encoded(image, kind, exif=turned(orientation))
    pixels = decode_image(data, channels=1)[..., 0]
    assert np.abs(pixels.astype(int) - upright).max() < 20


@pytest.mark.parametrize(
    "block",
    [b"", b"garbage!", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"],
)
def test_broken_exif_does_not_hurt(picture, block):
    data = encoded(Image.fromarray(picture), "PNG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(decode_image(data), picture)


def test_first_frame_of_an_animation():
    red = Image.new("RGB", (4, 4), "red")
    blue = Image.new("RGB", (4, 4), "blue")
    frames = {"save_all": True, "append_images": [blue]}
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(red, kind, **frames, **options)
        assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


KINDS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]


def cut_off(data: bytes, part: float) -> bytes:
    return data[: max(1, int(len(data) * part))]


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_refused_in_one_sentence(kind, tmp_path):
    data = encoded(Image.fromarray(noise(32, 32, seed=1)), kind)
    path = tmp_path / "cut.img"
    message = r"'.*cut\.img' is (cut short|damaged|not an image)"
    for part in (0.01, 0.1, 0.3, 0.6, 0.9):
        path.write_bytes(cut_off(data, part))
        with pytest.raises(UserError, match=message):
            decode_image(path)


@pytest.mark.parametrize("kind", [*KINDS, "PPM", "ICO"])
def test_garbled_bytes_end_in_user_errors_only(picture, kind):
    rng = np.random.default_rng(2)
    data = encoded(Image.fromarray(picture), kind)
    for _ in range(60):
        garbled = np.frombuffer(data, dtype=np.uint8).copy()
        places = rng.integers(0, len(data), 4)
        garbled[places] = rng.integers(0, 256, 4)
        with contextlib.suppress(UserError):
            decode_image(garbled.tobytes())


@pytest.mark.parametrize("size", [(8001, 8000), (10_000, 10_000), (30_000, 30_000)])
def test_too_many_pixels_are_refused_by_the_header(size, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(*size))
    with pytest.raises(UserError, match=r"bomb\.png' is too large: .*64000000"):
        decode_image(path)


def test_files_that_are_none(tmp_path):
    empty = tmp_path / "empty.jpg"
    html = tmp_path / "page.jpg"
    empty.touch()
    html.write_text("<html>")
    for path, reason in (
        (empty, r"empty\.jpg' is empty"),
        (html, r"page\.jpg' is not an image"),
        (tmp_path / "absent.jpg", r"absent\.jpg': No such file"),
        (tmp_path, "Is a directory|Permission denied"),
    ):
        with pytest.raises(UserError, match=reason):
            decode_image(path)
    with pytest.raises(UserError, match="the image is empty"):
        decode_image(b"")


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_a_forbidden_file(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(UserError, match=r"secret\.png': Permission denied"):
        decode_image(path)


def test_formats_that_run_programs_are_refused():
    with pytest.raises(UserError, match="not an image in a known format"):
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"))
    assert ".eps" not in decode.image_extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif"} <= decode.image_extensions()


OTHER_ARRAYS = {
    "whole numbers": np.zeros((2, 2, 3), np.int64),
    "floats of another range": np.full((2, 2, 3), 200.0),
    "five channels": np.zeros((2, 2, 5), np.uint8),
    "no pixels": np.zeros((0, 2), np.uint8),
}


@pytest.mark.parametrize("array", OTHER_ARRAYS.values(), ids=OTHER_ARRAYS)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match="expected uint8"):
        decode_image(array)


def test_other_numbers_of_channels_are_refused(picture):
    with pytest.raises(UserError, match="an image of 4 channels: expected"):
        decode_image(picture, channels=4)
    with pytest.raises(UserError, match="is no TIFF: an image of 4 channels"):
        decode_image(b"a file", channels=4)


def test_threads_leave_the_warning_filters_as_they_were(picture):
    data = encoded(Image.fromarray(picture), "PNG")
    before = list(warnings.filters)

    def decode_many() -> None:
        for _ in range(30):
            decode_image(data)

    threads = [threading.Thread(target=decode_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# Parts


Size = tuple[int, int]
Box = tuple[int, int, int, int]


def photo(size: Size = (61, 47), *, waves: float = 12.0) -> Image.Image:
    """Smooth colours with some noise on top.

    The smoother, the less a smaller scale leaves out.
    """
    width, height = size
    rows, columns = np.mgrid[:height, :width] / waves
    colours = [np.sin(rows + k) * np.cos(columns - k) for k in range(3)]
    pixels = 128 + 100 * np.stack(colours, axis=2)
    rng = np.random.default_rng(0)
    pixels += rng.normal(0, 48 / waves, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(kind: str, image: Image.Image, orientation: int) -> bytes:
    """A JPEG, or two of them in one file as telephones write them."""
    two = {}
    if kind == "MPO":
        second = Image.new("RGB", image.size)
        two = {"save_all": True, "append_images": [second]}
    return encoded(image, kind, quality=95, exif=turned(orientation), **two)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def corner(height: int, width: int) -> Box:
    """A box that knows up from down and left from right."""
    rows = max(1, height // 2)
    columns = width // 2 + 1
    return height // 5, width // 3, rows, min(columns, width)


def everything(height: int, width: int) -> Box:
    return 0, 0, height, width


@pytest.fixture(params=["simplejpeg", "Pillow alone"])
def decoder(request, monkeypatch) -> str:
    """With the fast decoder, and where it is not installed."""
    if request.param == "Pillow alone":
        monkeypatch.setattr(decode, "_fast_jpeg", None)
    elif decode._fast_jpeg is None:
        pytest.skip("simplejpeg is not installed")
    return request.param


JPEGS = {
    "444": {"subsampling": 0, "quality": 95},
    "422": {"subsampling": 1},
    "420": {"subsampling": 2, "quality": 60},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "RGB": {"keep_rgb": True},
    "gray": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}


def jpeg_of(size: Size, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(photo(size).convert(mode), "JPEG", **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(61, 47), (16, 16), (7, 33), (1, 1)])
@pytest.mark.parametrize("box", [corner, everything])
def test_a_part_of_a_jpeg_has_the_bits_of_the_whole(
    decoder, options, size, channels, box
):
    data = jpeg_of(size, **options)
    whole = decode_image(data, channels=channels)
    for least in (None, size[::-1]):
        part = Part(box, least)
        pixels = decode_image(data, channels=channels, part=part)
        np.testing.assert_array_equal(pixels, part.of(whole))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "TIFF"])
def test_a_part_is_of_the_upright_image(decoder, orientation, kind):
    data = jpeg(kind, photo(), orientation)
    assert Image.open(io.BytesIO(data)).format == kind
    part = Part(corner, (47, 61))
    pixels = decode_image(data, part=part)
    np.testing.assert_array_equal(pixels, part.of(decode_image(data)))


MODES = ["1", "P", "LA", "RGBA", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_a_part_of_other_modes(mode):
    image = photo()
    # Pillow goes to 16 bits by these steps only.
    for step in ("L", "I", "I;16") if mode == "I;16" else (mode,):
        image = image.convert(step)
    data = encoded(image, "PNG")
    part = Part(corner, (1, 1))
    pixels = decode_image(data, part=part)
    np.testing.assert_array_equal(pixels, part.of(decode_image(data)))


def averaged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The means of squares."""
    height, width, _ = pixels.shape
    squares = pixels.reshape(height // scale, scale, width // scale, scale, 3)
    return squares.astype(float).mean(axis=(1, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((24, 36), 1),
        ((20, 30), 2),
        ((10, 15), 4),
        ((11, 15), 2),
        ((5, 7), 8),
        ((1, 1), 8),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_the_smallest_scale_that_has_the_pixels(
    decoder, orientation, size, scale, kind
):
    """A part of 40 x 60 in 96 x 128, against the averages of squares.

    Its place, and what the scale leaves out.
    """
    stored = (128, 96) if orientation < 5 else (96, 128)
    data = jpeg(kind, photo(stored, waves=24.0), orientation)

    def box(height: int, width: int) -> Box:
        assert (height, width) == (96, 128)
        return 16, 24, 40, 60

    part = Part(box, size)
    pixels = decode_image(data, part=part)
    # 60 pixels are 7.5 at the scale of 8, and the box moves to whole ones.
    columns = 8 if scale == 8 else 60 // scale
    assert pixels.shape == (40 // scale, columns, 3)
    if scale < 8:
        expected = averaged(part.of(decode_image(data)), scale)
        assert np.abs(pixels - expected).max() < 8


@pytest.mark.skipif(decode._fast_jpeg is None, reason="simplejpeg is not installed")
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(160, 120), (157, 131), (65, 33), (9, 17)])
def test_both_decoders_give_the_same_bits_at_every_scale(options, size, monkeypatch):
    data = jpeg_of(size, **options)
    width, height = size
    sizes = [(height // scale, width // scale) for scale in (1, 2, 4, 8)]
    parts = [Part(everything, least) for least in sizes]
    fast = [decode_image(data, part=part) for part in parts]
    monkeypatch.setattr(decode, "_fast_jpeg", None)
    for pixels, part in zip(fast, parts, strict=True):
        np.testing.assert_array_equal(pixels, decode_image(data, part=part))


sides = st.integers(1, 90)
small_sides = st.integers(1, 40)
unit = st.floats(0, 1, exclude_max=True)


@given(
    st.tuples(sides, sides),
    st.tuples(unit, unit, unit, unit),
    st.tuples(small_sides, small_sides),
    st.sampled_from([1, 3, 6]),
)
@settings(max_examples=150, deadline=None)
def test_any_part_is_there_and_has_its_pixels(shape, draws, size, orientation):
    data = encoded(Image.new("RGB", shape), "JPEG", exif=turned(orientation))

    def box(height: int, width: int) -> Box:
        rows = 1 + int(draws[0] * height)
        columns = 1 + int(draws[1] * width)
        top = int(draws[2] * (height - rows + 1))
        left = int(draws[3] * (width - columns + 1))
        return top, left, rows, columns

    upright = shape[::-1] if orientation < 5 else shape
    _, _, rows, columns = box(*upright)
    least_rows, least_columns = size
    height, width, _ = decode_image(data, part=Part(box, size)).shape
    assert min(rows, least_rows) <= height <= rows
    assert min(columns, least_columns) <= width <= columns
    # It is no finer than needed, down to an eighth.
    eighth = rows // least_rows >= 8 and columns // least_columns >= 8
    assert eighth or height <= 2 * least_rows or width <= 2 * least_columns


def test_a_part_leaves_the_caller_s_image_as_it_was():
    data = encoded(photo(), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        pixels = decode_image(image, part=Part(everything, (1, 1)))
        np.testing.assert_array_equal(pixels, decode_image(data))
        assert image.size == (61, 47)


def one_pixel(height: int, width: int) -> Box:
    return 0, 0, 1, 1


def without_numbers(error: BaseException) -> str:
    return re.sub(r"\d+", "", str(error))


PARTS = [Part(one_pixel), Part(everything, (2, 2))]


@pytest.mark.parametrize("part", PARTS, ids=["one pixel", "coarsely"])
def test_every_cut_of_a_jpeg_is_refused_for_a_part_too(decoder, part, tmp_path):
    data = encoded(photo(), "JPEG")
    path = tmp_path / "cut.jpg"
    for share in (0.01, 0.1, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(cut_off(data, share))
        with pytest.raises(UserError) as whole:
            decode_image(path)
        with pytest.raises(UserError) as raised:
            decode_image(path, part=part)
        assert without_numbers(raised.value) == without_numbers(whole.value)


def test_too_many_pixels_are_refused_before_a_part():
    with pytest.raises(UserError, match="the image is too large"):
        decode_image(png_that_claims(8001, 8000), part=Part(corner))
    data = bytearray(encoded(photo(), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", 9000, 9000)
    with pytest.raises(UserError, match="the image is too large: 9000 x 9000"):
        decode_image(bytes(data), part=Part(corner, (1, 1)))


def test_what_simplejpeg_refuses_goes_to_pillow(monkeypatch):
    data = encoded(photo(), "JPEG")
    seen = []

    def refuses(received: bytes, **_: int) -> np.ndarray:
        seen.append(received)
        raise ValueError("Corrupt JPEG data")

    def of_another_size(received: bytes, **_: int) -> np.ndarray:
        return np.zeros((5, 5, 3), np.uint8)

    part = Part(corner)
    expected = part.of(decode_image(data))
    for decoded in (refuses, of_another_size):
        monkeypatch.setattr(decode, "_fast_jpeg", decoded)
        pixels = decode_image(data, part=part)
        np.testing.assert_array_equal(pixels, expected)
    assert seen == [data]


def test_simplejpeg_need_not_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    spec = importlib.util.find_spec(decode.__name__)
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert without._fast_jpeg is None


def manifest() -> list[dict[str, str]]:
    if not (SHARED / "manifest.csv").is_file():
        return []
    with (SHARED / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(
    not manifest(), reason=f"there are no odd images in {SHARED} (set MLP_MIXER_SHARED)"
)
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_odd_images(row):
    path = SHARED / row["file"]
    may_fail = row["expect"] == "either" and not decodes(path)
    if row["expect"] == "reject" or may_fail:
        with pytest.raises(UserError, match=re.escape(row["file"])):
            decode_image(path)
        return
    pixels = decode_image(path)
    if row["rgb_size"]:
        height, width, _ = pixels.shape
        assert f"{width}x{height}" == row["rgb_size"]
    colour = row["mean_rgb"] or row["scaled_mean"]
    if colour:
        expected = [float(value) for value in colour.split()]
        assert np.abs(pixels.mean((0, 1)) - expected).max() < 0.6


def decodes(path: Path) -> bool:
    try:
        decode_image(path)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_heic_is_refused_by_its_name_where_nothing_reads_it(
    monkeypatch, tmp_path, brand
):
    monkeypatch.setattr(opening, "FORMATS", ("JPEG", "PNG"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(100))
    for source in (path, path.read_bytes()):
        with pytest.raises(UserError, match="is a HEIC image: pip install pillow-heif"):
            decode.decode_image(source)


def test_heic_is_decoded_where_its_library_is(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / "photo.heic"
    Image.new("RGB", (64, 48), (200, 30, 60)).save(path, "HEIF", quality=95)
    assert ".heic" in decode.image_extensions()
    pixels = decode.decode_image(path)
    assert pixels.shape == (48, 64, 3)
    assert abs(pixels.astype(int) - (200, 30, 60)).max() < 8


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
def test_a_png_with_much_text_is_no_damage(chunk, where):
    if (chunk, where) == ("iCCP", "after"):
        pytest.skip("a profile stands before the pixels")
    file = io.BytesIO()
    image = Image.effect_noise((12, 9), 50).convert("RGB")
    image.save(file, "PNG")
    data = file.getvalue()
    large = zlib.compress(bytes(3_000_000))
    content = {
        "zTXt": b"key\0\0" + large,
        "iTXt": b"key\0\1\0\0\0" + large,
        "iCCP": b"name\0\0" + large,
    }[chunk]
    kind = chunk.encode()
    body = struct.pack(">I", len(content)) + kind + content
    body += struct.pack(">I", zlib.crc32(kind + content))
    # Behind the header of 33 bytes, or before the end mark of 12.
    place = 33 if where == "before" else len(data) - 12
    whole = data[:place] + body + data[place:]
    np.testing.assert_array_equal(decode.decode_image(whole), np.asarray(image))
    with pytest.raises(UserError, match="cut short|damaged"):
        decode.decode_image(whole[: place + len(body) // 2])
