"""Pictures that ask for much more than they are, made from a few lines each.

`hostile_files(size)` has files of about that many bytes at most. None of them runs
anything; each costs a naive reader minutes or gigabytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

_MADE: dict[str, Callable[[int], bytes]] = {}


def hostile_files(size: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file.

    Args:
        size: Bytes of the floods among them.
    """
    for name, make in _MADE.items():
        yield name, make(size)


def _file(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    _MADE[make.__name__] = make
    return make


def picture(form: str, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """Return an ordinary picture."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(file, form, **options)
    return file.getvalue()


def tags(payload: int, entries: int, order: str = "<") -> bytes:
    """Return a TIFF directory whose tags all name the same bytes."""
    start = 8 + 2 + 12 * entries + 4
    head = b"II*\0" if order == "<" else b"MM\0*"
    block = head + struct.pack(f"{order}IH", 8, entries)
    for number in range(entries):
        block += struct.pack(f"{order}HHII", 1000 + number % 60_000, 7, payload, start)
    return block + struct.pack(f"{order}I", 0) + bytes(payload)


def segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def in_jpeg(content: bytes) -> bytes:
    """Put bytes behind the beginning of a JPEG."""
    jpeg = picture("JPEG")
    return jpeg[:2] + content + jpeg[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def in_png(content: bytes) -> bytes:
    """Put chunks behind the header of a PNG."""
    png = picture("PNG")
    return png[:33] + content + png[33:]


def blank_png(width: int, height: int, data: bytes | None = None) -> bytes:
    """Return a PNG of black pixels, of one bit each."""
    if data is None:
        row = bytes(1 + (width + 7) // 8)
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@_file
def jpeg_with_scans(size: int) -> bytes:
    jpeg = picture("JPEG", (64, 64), progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    scan = jpeg[last:-2]
    return jpeg[:-2] + scan * (size // len(scan)) + jpeg[-2:]


@_file
def jpeg_with_comments(size: int) -> bytes:
    return in_jpeg(segment(0xFE, b"") * (size // 4))


@_file
def jpeg_with_padding(size: int) -> bytes:
    return in_jpeg(b"\xff" * size)


@_file
def jpeg_with_garbage(size: int) -> bytes:
    return in_jpeg(b"\xff\xfe\0\2" + bytes(size))


@_file
def jpeg_with_exif(size: int) -> bytes:
    block = tags(size // 2, min(size // 24, 65_000))
    pieces = [block[i : i + 65_000] for i in range(0, len(block), 65_000)]
    return in_jpeg(b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces))


@_file
def jpeg_with_second_pictures(size: int) -> bytes:
    return in_jpeg(segment(0xE2, b"MPF\0" + tags(32_000, 2_500)))


@_file
def png_with_chunks(size: int) -> bytes:
    return in_png(chunk(b"teXt", b"") * (size // 12))


@_file
def png_with_empty_data(size: int) -> bytes:
    return in_png(chunk(b"IDAT", b"") * (size // 12))


@_file
def png_with_exif(size: int) -> bytes:
    return in_png(chunk(b"eXIf", tags(size // 2, min(size // 24, 65_000))))


@_file
def png_with_exif_in_text(size: int) -> bytes:
    block = tags(100_000, 20_000).hex().encode()
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 1\n" + block)
    return in_png(chunk(b"zTXt", text))


@_file
def png_with_packed_texts(size: int) -> bytes:
    packed = zlib.compress(bytes(1_000_000))
    return in_png(chunk(b"zTXt", b"key\0\0" + packed) * min(60, size // len(packed)))


@_file
def png_with_packed_profile(size: int) -> bytes:
    return in_png(chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(20 * size))))


@_file
def png_of_many_pixels(size: int) -> bytes:
    return blank_png(7000, 7000)


@_file
def png_that_claims_pixels(size: int) -> bytes:
    return blank_png(60_000, 60_000, b"")


@_file
def gif_with_comments(size: int) -> bytes:
    return gif(b"!\xfe" + b"\1x" * (size // 2) + b"\0")


@_file
def gif_with_extensions(size: int) -> bytes:
    return gif(b"!\xfe\0" * (size // 3))


@_file
def gif_of_many_pixels(size: int) -> bytes:
    return gif(b"", (7000, 7000))


@_file
def gif_that_claims_pixels(size: int) -> bytes:
    return gif(b"", (65_535, 65_535))


def gif(before: bytes, frame: tuple[int, int] = (2, 2)) -> bytes:
    """Return a GIF of 2 x 2 pixels with a frame of its own size."""
    head = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0)
    return head + before + image + b"\2\2\x4c\1\0;"


@_file
def webp_of_many_pixels(size: int) -> bytes:
    # A flat image of 16383 x 3000 pixels: VP8L codes it in a few bytes.
    file = io.BytesIO()
    Image.new("RGB", (16_383, 3_000)).save(file, "WEBP", lossless=True, method=0)
    return file.getvalue()


@_file
def webp_that_claims_pixels(size: int) -> bytes:
    webp = bytearray(picture("WEBP", lossless=True))
    place = webp.index(b"VP8L") + 9
    bits = 16_382 | 16_382 << 14
    webp[place : place + 4] = struct.pack("<I", bits)
    return bytes(webp)


@_file
def webp_with_exif(size: int) -> bytes:
    block = tags(size // 2, min(size // 24, 65_000))
    return picture("WEBP", exif=b"Exif\0\0" + block)


def bmp(size: tuple[int, int], packed: int, bits: int, data: bytes) -> bytes:
    """Return a BMP of gray pixels."""
    palette = bytes(4 * 256)
    start = 54 + len(palette)
    head = struct.pack("<IHHI", start + len(data), 0, 0, start)
    fields = struct.pack("<iiHHIIiiII", *size, 1, bits, packed, len(data), 0, 0, 256, 0)
    return b"BM" + head + struct.pack("<I", 40) + fields + palette + data


@_file
def bmp_of_empty_runs(size: int) -> bytes:
    return bmp((4000, 4000), 1, 8, b"\0\2\0\0" * (size // 4))


@_file
def bmp_of_short_runs(size: int) -> bytes:
    return bmp((7000, 7000), 1, 8, b"\1\7" * (size // 2))


@_file
def bmp_that_claims_pixels(size: int) -> bytes:
    return bmp((7000, 7000), 0, 8, b"")


def icon(inside: bytes, entries: int = 1) -> bytes:
    """Return an icon that says it is 16 x 16."""
    start = 6 + 16 * entries
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), start)
    return struct.pack("<HHH", 0, 1, entries) + entry * entries + inside


@_file
def ico_of_a_large_png(size: int) -> bytes:
    return icon(blank_png(9000, 9000))


@_file
def ico_of_a_large_bitmap(size: int) -> bytes:
    fields = struct.pack("<IiiHHIIiiII", 40, 30_000, 60_000, 1, 32, 0, 0, 0, 0, 0, 0)
    return icon(fields + bytes(1000))


@_file
def ico_with_two_headers(size: int) -> bytes:
    large = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 6, 0, 0, 0)
    return icon(in_png(chunk(b"IHDR", large)))


@_file
def ico_with_entries(size: int) -> bytes:
    return icon(picture("PNG"), 65_535)


def tiff(fields: dict[int, tuple[int, int, int]], more: bytes = b"") -> bytes:
    """Return a TIFF with a directory of (type, count, value) for each tag."""
    block = b"II*\0" + struct.pack("<IH", 8, len(fields))
    for tag, (kind, count, value) in sorted(fields.items()):
        block += struct.pack("<HHII", tag, kind, count, value)
    return block + bytes(4) + more


def gray(width: int, height: int) -> dict[int, tuple[int, int, int]]:
    """Return the tags of a gray TIFF of that size."""
    return {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        277: (3, 1, 1),
    }


@_file
def tiff_of_tiny_tiles(size: int) -> bytes:
    many = size // 8
    fields = gray(many, 1)
    fields |= {322: (4, 1, 1), 323: (4, 1, 1)}
    start = 8 + 2 + 12 * (len(fields) + 2) + 4
    fields |= {324: (4, many, start), 325: (4, many, start)}
    return tiff(fields, bytes(4 * many))


@_file
def tiff_of_a_huge_tile(size: int) -> bytes:
    fields = gray(16, 16)
    fields |= {322: (4, 1, 65_520), 323: (4, 1, 32_000)}
    return tiff(fields | {324: (4, 1, 8), 325: (4, 1, 99)})


@_file
def tiff_of_tags(size: int) -> bytes:
    return tags(size // 2, min(size // 24, 65_000))


@_file
def jpeg2000_of_tiny_tiles(size: int) -> bytes:
    sides = struct.pack(">8I", 65_535, 1, 0, 0, 1, 1, 0, 0)
    siz = struct.pack(">HH", 0, 0)[:2] + sides + struct.pack(">H", 1) + b"\x07\1\1"
    cod = b"\0\0\0\1\0\0\4\4\0\0"
    head = b"\xff\x4f\xff\x51" + struct.pack(">H", len(siz) + 2) + siz
    return head + b"\xff\x52" + struct.pack(">H", len(cod) + 2) + cod


@_file
def ppm_with_a_comment(size: int) -> bytes:
    return b"P6\n#" + b"x" * size + b"\n2 2 255\n" + bytes(12)


@_file
def ppm_of_text(size: int) -> bytes:
    return b"P3\n1000 1000 255\n" + b"1 " * (size // 2)


@_file
def two_formats(size: int) -> bytes:
    return b"Image type: \xff\r\n" + bytes(500) + blank_png(8000, 8000)
