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

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlp_mixer.errors import UserError
from mlp_mixer.images import decode
from mlp_mixer.images.decode import Part, decode_image

SHARED = (
    Path(os.environ.get("MLP_MIXER_SHARED", Path(__file__).parents[4] / "shared"))
    / "data/bad_images"
)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body))
            + kind
            + body
            + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


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
    assert decode_image(half)[0, 0].tolist() == [227, 177, 127]
    assert (decode_image(clear) == 255).all()
    assert (decode_image(np.zeros((2, 2, 2), dtype=np.uint8), channels=1) == 255).all()


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    pixels = decode_image(encoded(image, "PNG", transparency=0))
    assert pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode_image(
            encoded(Image.fromarray(values), kind), channels=1
        ).ravel().tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused(mode):
    with pytest.raises(UserError, match="unknown range: save it with 8 or 16 bits"):
        decode_image(Image.new(mode, (2, 2), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((32, 64), dtype=np.uint8)
    upright[:16, :32] = 255  # white top left
    back = {1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 8: 7}[orientation]
    stored = [
        upright,
        upright[:, ::-1],
        upright[::-1, ::-1],
        upright[::-1],
        upright.T,
        np.rot90(upright, 1),
        upright[::-1, ::-1].T,
        np.rot90(upright, -1),
    ][back]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    assert (
        np.abs(decode_image(data, channels=1)[..., 0].astype(int) - upright).max() < 20
    )


@pytest.mark.parametrize(
    "block",
    [b"", b"garbage!", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"],
)
def test_broken_exif_does_not_hurt(picture, block):
    data = encoded(Image.fromarray(picture), "PNG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(decode_image(data), picture)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind, options in (
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("PNG", {}),
    ):
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **options
        )
        assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_cut_is_refused_in_one_sentence(kind, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), kind)
    path = tmp_path / "cut.img"
    for part in (0.01, 0.1, 0.3, 0.6, 0.9):
        path.write_bytes(data[: max(1, int(len(data) * part))])
        with pytest.raises(
            UserError, match=r"'.*cut\.img' is (cut short|damaged|not an image)"
        ):
            decode_image(path)


def test_garbled_bytes_end_in_user_errors_only(picture):
    rng = np.random.default_rng(2)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO"):
        data = np.frombuffer(encoded(Image.fromarray(picture), kind), dtype=np.uint8)
        for _ in range(60):
            garbled = data.copy()
            garbled[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
            try:
                decode_image(garbled.tobytes())
            except UserError:
                continue


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


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2, 3)), np.zeros((2, 2, 5), np.uint8), np.zeros((0, 2), np.uint8)],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match="expected uint8"):
        decode_image(array)
    with pytest.raises(UserError, match="expected 1"):
        decode_image(np.zeros((2, 2), np.uint8), channels=4)


def test_threads_leave_the_warning_filters_as_they_were(picture):
    data = encoded(Image.fromarray(picture), "PNG")
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [decode_image(data) for _ in range(30)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# Parts


def photo(width: int = 61, height: int = 47, *, waves: float = 12.0) -> Image.Image:
    """Smooth colours with some noise on top; the smoother, the less a smaller scale
    leaves out.
    """
    rows, columns = np.mgrid[:height, :width]
    colours = [
        128 + 100 * np.sin(rows / waves + k) * np.cos(columns / waves - k)
        for k in range(3)
    ]
    noise = np.random.default_rng(0).normal(0, 48 / waves, (height, width, 1))
    return Image.fromarray(
        np.clip(np.stack(colours, axis=2) + noise, 0, 255).astype(np.uint8)
    )


def jpeg(kind: str, image: Image.Image, orientation: int) -> bytes:
    """A JPEG, or two of them in one file as telephones write them."""
    two = (
        {"save_all": True, "append_images": [Image.new("RGB", image.size)]}
        if kind == "MPO"
        else {}
    )
    return encoded(image, kind, quality=95, exif=turned(orientation), **two)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def corner(height: int, width: int) -> tuple[int, int, int, int]:
    """A box that knows up from down and left from right."""
    return height // 5, width // 3, height // 2, width // 2 + 1


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(61, 47), (16, 16), (7, 33), (1, 1)])
def test_a_part_of_a_jpeg_has_the_bits_of_the_whole(decoder, options, size, channels):
    mode = options.get("mode", "RGB")
    others = {name: value for name, value in options.items() if name != "mode"}
    data = encoded(photo(*size).convert(mode), "JPEG", **others)
    for box in (corner, lambda height, width: (0, 0, height, width)):
        for least in (None, size[::-1]):
            part = Part(
                lambda height, width, box=box: tuple(
                    max(1, v) if k > 1 else v for k, v in enumerate(box(height, width))
                ),
                least,
            )
            expected = part.of(decode_image(data, channels=channels))
            np.testing.assert_array_equal(
                decode_image(data, channels=channels, part=part), expected
            )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "TIFF"])
def test_a_part_is_of_the_upright_image(decoder, orientation, kind):
    data = jpeg(kind, photo(), orientation)
    assert Image.open(io.BytesIO(data)).format == kind
    part = Part(corner, (47, 61))
    np.testing.assert_array_equal(
        decode_image(data, part=part), part.of(decode_image(data))
    )


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_a_part_of_other_modes(mode):
    image = (
        photo().convert("L").convert("I").convert("I;16")
        if mode == "I;16"
        else photo().convert(mode)
    )
    data = encoded(image, "PNG")
    np.testing.assert_array_equal(
        decode_image(data, part=Part(corner, (1, 1))),
        Part(corner).of(decode_image(data)),
    )


def averaged(
    pixels: np.ndarray, box: tuple[int, int, int, int], scale: int
) -> np.ndarray:
    top, left, height, width = box
    part = pixels[top : top + height, left : left + width].astype(float)
    return part.reshape(height // scale, scale, width // scale, scale, 3).mean((1, 3))


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
    """A part of 40 x 60 in 96 x 128, against the averages of squares: its place, and
    what the scale leaves out.
    """
    wide = orientation < 5
    data = jpeg(
        kind, photo(*((128, 96) if wide else (96, 128)), waves=24.0), orientation
    )
    box = (16, 24, 40, 60)
    pixels = decode_image(
        data,
        part=Part(
            lambda height, width: box if (height, width) == (96, 128) else None, size
        ),
    )
    assert pixels.shape == (
        40 // scale,
        (60 + 4) // 8 * 8 // 8 if scale == 8 else 60 // scale,
        3,
    )
    if scale < 8:
        assert np.abs(pixels - averaged(decode_image(data), box, scale)).max() < 8


@pytest.mark.skipif(decode._fast_jpeg is None, reason="simplejpeg is not installed")
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("size", [(160, 120), (157, 131), (65, 33), (9, 17)])
def test_both_decoders_give_the_same_bits_at_every_scale(options, size, monkeypatch):
    mode = options.get("mode", "RGB")
    others = {name: value for name, value in options.items() if name != "mode"}
    data = encoded(photo(*size).convert(mode), "JPEG", **others)
    parts = [
        Part(
            lambda height, width: (0, 0, height, width),
            (size[1] // scale, size[0] // scale),
        )
        for scale in (1, 2, 4, 8)
    ]
    fast = [decode_image(data, part=part) for part in parts]
    monkeypatch.setattr(decode, "_fast_jpeg", None)
    for pixels, part in zip(fast, parts, strict=True):
        np.testing.assert_array_equal(pixels, decode_image(data, part=part))


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 3, 6]),
)
@settings(max_examples=150, deadline=None)
def test_any_part_is_there_and_has_its_pixels(shape, draws, size, orientation):
    data = encoded(Image.new("RGB", shape), "JPEG", exif=turned(orientation))

    def box(height: int, width: int) -> tuple[int, int, int, int]:
        rows = 1 + int(draws[0] * height)
        columns = 1 + int(draws[1] * width)
        return (
            int(draws[2] * (height - rows + 1)),
            int(draws[3] * (width - columns + 1)),
            rows,
            columns,
        )

    _, _, rows, columns = box(*(shape[::-1] if orientation < 5 else shape))
    height, width, _ = decode_image(data, part=Part(box, size)).shape
    assert min(rows, size[0]) <= height <= rows
    assert min(columns, size[1]) <= width <= columns
    assert (
        height < 2 * size[0] + 1
        or width < 2 * size[1] + 1
        or min(rows // size[0], columns // size[1]) >= 8
    )


def test_a_part_leaves_the_caller_s_image_as_it_was():
    data = encoded(photo(), "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        part = Part(lambda height, width: (0, 0, height, width), (1, 1))
        np.testing.assert_array_equal(
            decode_image(image, part=part), decode_image(data)
        )
        assert image.size == (61, 47)


@pytest.mark.parametrize("size", [None, (2, 2)])
def test_every_cut_of_a_jpeg_is_refused_for_a_part_too(decoder, size, tmp_path):
    data = encoded(photo(), "JPEG")
    path = tmp_path / "cut.jpg"
    for part in (0.01, 0.1, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(data[: max(1, int(len(data) * part))])
        with pytest.raises(UserError) as whole:
            decode_image(path)
        with pytest.raises(UserError) as raised:
            decode_image(
                path,
                part=Part(
                    lambda height, width: (
                        (0, 0, 1, 1) if size is None else (0, 0, height, width)
                    ),
                    size,
                ),
            )
        assert re.sub(r"\d+", "", str(raised.value)) == re.sub(
            r"\d+", "", str(whole.value)
        )


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

    for decoded in (refuses, lambda received, **_: np.zeros((5, 5, 3), np.uint8)):
        monkeypatch.setattr(decode, "_fast_jpeg", decoded)
        np.testing.assert_array_equal(
            decode_image(data, part=Part(corner)), Part(corner).of(decode_image(data))
        )
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
    if row["expect"] == "reject" or (row["expect"] == "either" and not decodes(path)):
        with pytest.raises(UserError, match=re.escape(row["file"])):
            decode_image(path)
        return
    pixels = decode_image(path)
    if row["rgb_size"]:
        assert f"{pixels.shape[1]}x{pixels.shape[0]}" == row["rgb_size"]
    if colour := row["mean_rgb"] or row["scaled_mean"]:
        assert (
            np.abs(
                pixels.mean((0, 1)) - [float(value) for value in colour.split()]
            ).max()
            < 0.6
        )


def decodes(path: Path) -> bool:
    try:
        decode_image(path)
    except UserError:
        return False
    return True
