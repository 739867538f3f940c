"""Arrays and archives of strangers: nothing is built from a claim that does not fit."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlp_mixer.untrusted.arrays import npy_claim, read_npy
from mlp_mixer.untrusted.sizes import check_unpacked
from mlp_mixer.untrusted.zips import claimed_bytes, open_zip, read_member

MIB = 2**20

HONEST = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "by column": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big-endian": np.arange(5, dtype=">i8"),
    "a number": np.array(3),
    "no numbers": np.zeros((0, 4), np.float16),
    "text": np.array(["ä", "bc"]),
    "short text": np.array([b"x", b"yz"]),
    "yes and no": np.array([True, False]),
    "complex": np.array([1 + 2j]),
}


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(text: str, data: bytes = bytes(16), version: int = 1) -> bytes:
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + data


def header(descr: str = "'|u1'", order: str = "False", shape: str = "(16,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def read(data: bytes) -> Any:
    return read_npy(io.BytesIO(data), len(data))


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_what_numpy_writes_is_read_as_numpy_reads_it(
    name: str, version: tuple[int, int]
) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, HONEST[name], version)
    found = read(file.getvalue())
    file.seek(0)
    expected = np.load(file)
    assert found.dtype == expected.dtype
    assert found.flags.writeable
    np.testing.assert_array_equal(found, expected)
    assert found.flags.f_contiguous == expected.flags.f_contiguous


@pytest.mark.parametrize(
    "text",
    [
        header(),
        # Other programs write other orders, quotes and spaces; Python 2 wrote 16L.
        '{"shape":(16,),"descr":"|u1","fortran_order":False}',
        "{'shape': (2, 8L), 'fortran_order': True, 'descr': '|u1'}",
    ],
)
def test_what_other_programs_write(text: str) -> None:
    assert read(with_header(text)).size == 16


LIES = {
    "too much": (header(shape="(17,)"), "claims uint8 of the shape .17., and 16 bytes"),
    "too little": (header(shape="(15,)"), "16 bytes follow"),
    "gigabytes": (header(shape="(4000000000,)"), "16 bytes follow"),
    "2**63": (header(shape=f"({2**63}, 2)"), "16 bytes follow"),
    "2**64 that wraps around": (header(shape=f"({2**32}, {2**32}, 16)"), "16 bytes"),
    "beyond any number": (header(shape=f"({10**30},)"), "a shape that no array has"),
    "negative": (header(shape="(-16,)"), "a shape that no array has"),
    "twice negative": (header(shape="(-4, -4)"), "a shape that no array has"),
    "NaN": (header(shape="(nan,)"), "a shape that no array has"),
    "infinity": (header(shape="(1e999,)"), "a shape that no array has"),
    "a bool": (header(shape="(True, 16)"), "a shape that no array has"),
    "other digits": (
        header(shape="(١٦,)"),
        "a shape that no array has|expected numbers",
    ),
    "33 axes": (header(shape="(" + "1, " * 33 + ")"), "a shape that no array has"),
    "objects": (header("'|O'"), "Python objects, which are not read"),
    "objects of 8 bytes": (header("'|O8'", shape="(2,)"), "Python objects"),
    "records": (header("[('a', '<i8')]", shape="(2,)"), "expected numbers or text"),
    "records of objects": (header("[('a', '|O')]", shape="(2,)"), "Python objects"),
    "dates": (header("'<M8[s]'", shape="(2,)"), "expected numbers or text"),
    "text of no letters": (header("'<U0'", shape="(1000000000000,)"), "expected numb"),
    "long letters": (header("'<U99999999'", shape="(1,)"), "expected numbers or text"),
    "a call": (header("__import__('os').abort()"), "expected numbers or text"),
    "a comma string": (header("'u1,u1'", shape="(8,)"), "expected numbers or text"),
    "no order": ("{'descr': '|u1', 'shape': (16,)}", "expected numbers or text"),
    "deep": ("{" + "(" * 5000, "expected numbers or text"),
    "many minus signs": (header(shape="-" * 5000 + "1"), "expected numbers or text"),
    "a long header": (header(shape="(16,)" + " " * 20_000), "header claims 20,"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_claim_that_does_not_fit_builds_nothing(name: str) -> None:
    text, match = LIES[name]
    data = with_header(text)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_the_file_is_not_asked_for() -> None:
    """NumPy's reader asks for these 4 GiB."""
    data = b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="header claims 4,294,967,295 bytes"):
            npy_claim(io.BytesIO(data), len(data))
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_an_empty_array_beside_a_huge_side() -> None:
    shape = f"(0, {2**40}, {2**40})"
    with pytest.raises(ValueError, match="claims uint8"):
        read(with_header(header(shape=shape), b""))


@pytest.mark.parametrize("length", [0, 3, 7, 9, 60, 127, 130])
def test_a_file_that_is_cut_short(length: int) -> None:
    data = npy(np.arange(10, dtype=np.uint8))
    with pytest.raises(
        ValueError, match=r"numpy.save writes|claims|cut short|expected"
    ):
        read(data[:length])
    # It became shorter after its size was asked for.
    with pytest.raises(ValueError, match=r"."):
        read_npy(io.BytesIO(data[:length]), len(data))


def zipped(members: dict[str, bytes], way: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", way) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    file.seek(0)
    return file


def test_an_honest_archive() -> None:
    for way in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = open_zip(zipped({"a.npy": npy(np.arange(9))}, way))
        (member,) = archive.infolist()
        assert claimed_bytes([member]) == len(npy(np.arange(9)))
        assert read_member(archive, member) == npy(np.arange(9))


def test_a_zip_of_zeros_is_refused_before_it_is_unpacked() -> None:
    for members in (
        {"x": bytes(18 * MIB)},
        {str(k): bytes(3 * MIB) for k in range(6)},
        {"x": npy(np.zeros((1536, 1536)))},
    ):
        file = zipped(members)
        archive = open_zip(file)
        claimed = claimed_bytes(archive.infolist())
        with pytest.raises(ValueError, match="or a trap"):
            check_unpacked(claimed, file.getbuffer().nbytes)


def test_a_directory_that_states_less_unpacks_no_more() -> None:
    """The member holds 8 MiB, and the directory says 100 bytes."""
    file = zipped({"x": bytes(8 * MIB)})
    data = file.getvalue().replace((8 * MIB).to_bytes(4, "little"), b"d\0\0\0")
    archive = open_zip(io.BytesIO(data))
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            read_member(archive, archive.infolist()[0])
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def _encrypted() -> io.BytesIO:
    data = zipped({"x": b"hello"}).getvalue()
    return io.BytesIO(
        data.replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")
    )


def _twice() -> io.BytesIO:
    data = zipped({"x1": b"hello", "x2": b"hello"}).getvalue()
    return io.BytesIO(data.replace(b"x2", b"x1"))


REFUSED: dict[str, tuple[Callable[[], io.BytesIO], str]] = {
    "encrypted": (_encrypted, "encrypted"),
    "bzip2": (lambda: zipped({"x": b"a"}, zipfile.ZIP_BZIP2), "an unusual way"),
    "lzma": (lambda: zipped({"x": b"a"}, zipfile.ZIP_LZMA), "an unusual way"),
    "two of a name": (_twice, "two members of one name"),
    "too many": (
        lambda: zipped({str(k): b"" for k in range(20_001)}, zipfile.ZIP_STORED),
        "lists more than 20,000 members",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_that_is_refused(name: str) -> None:
    build, match = REFUSED[name]
    with pytest.raises(ValueError, match=match):
        open_zip(build())


def test_a_directory_of_millions_is_not_read() -> None:
    """Each of its entries would become an object of half a kilobyte."""
    one = zipped({"x": b""}, zipfile.ZIP_STORED).getvalue()
    start = one.index(b"PK\x01\x02")
    entry, end = one[start:-22], one[-22:]
    count = 12 * MIB // len(entry)
    directory = entry * count
    end = end[:12] + len(directory).to_bytes(4, "little") + end[16:]
    file = io.BytesIO(one[:start] + directory + end)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="lists more than 20,000 members"):
            open_zip(file)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
