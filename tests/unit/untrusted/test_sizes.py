"""Files, gzip files and JSON of strangers: what they may cost is measured."""

from __future__ import annotations

import gzip
import json
import os
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer.errors import UserError
from mlp_mixer.files import read_json
from mlp_mixer.untrusted import sizes
from mlp_mixer.untrusted.sizes import check_unpacked, gunzip, opened, read_bytes
from mlp_mixer.untrusted.text import parse_json

MIB = 2**20


def peak_mib(act: Callable[[], Any]) -> float:
    """The most memory that Python's allocators held during a call, in MiB."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def refused(act: Callable[[], Any], match: str) -> float:
    """The peak memory of a call that is refused."""

    def tried() -> None:
        with pytest.raises(ValueError, match=match):
            act()

    return peak_mib(tried)


def test_only_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "link").symlink_to("a")
    assert read_bytes(tmp_path / "link", 5) == b"hello"
    with pytest.raises(ValueError, match="it has 5 bytes, at most 4 are read"):
        read_bytes(tmp_path / "a", 4)
    os.mkfifo(tmp_path / "pipe")
    # Opening the pipe would wait for ever, and the device never ends.
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="a pipe, a device or a folder"):  # noqa: SIM117
            with opened(path):
                pass


def test_a_sparse_file_costs_nothing(tmp_path: Path) -> None:
    """Its terabyte is a claim too: of 4 kB on the disk, and in a tar of 1 kB."""
    with (tmp_path / "a").open("wb") as file:
        file.truncate(2**40)
    assert refused(lambda: read_bytes(tmp_path / "a", 2**30), "at most") < 1


@pytest.mark.parametrize("packed", [1, 100, 2**20, 2**27])
def test_a_ratio_is_asked_of_large_files_only(packed: int) -> None:
    most = max(sizes.FREE_BYTES, sizes.MOST_RATIO * packed)
    check_unpacked(most, packed)
    with pytest.raises(ValueError, match="damaged or a trap"):
        check_unpacked(most + 1, packed)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        check_unpacked(1001, packed, most=1000)


BOMBS = {
    "zeros": lambda: gzip.compress(bytes(40 * MIB), mtime=0),
    "a pattern": lambda: gzip.compress(b"\1\2" * (20 * MIB), mtime=0),
    "two streams": lambda: 2 * gzip.compress(bytes(20 * MIB), mtime=0),
    "behind an honest start": lambda: gzip.compress(
        os.urandom(1000) + bytes(40 * MIB), mtime=0
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_ratio(name: str) -> None:
    """All of it would take 40 MiB and more."""
    data = BOMBS[name]()
    assert refused(lambda: gunzip(data, 2**30), "or a trap") < 35


def test_a_bomb_is_refused_by_its_size() -> None:
    data = gzip.compress(os.urandom(MIB), 1)
    assert len(gunzip(data, MIB)) == MIB
    assert refused(lambda: gunzip(data, MIB - 1), "holds more than 1,048,575") < 8


def test_damaged_gzip() -> None:
    data = gzip.compress(b"hello" * 100, mtime=0)
    assert bytes(gunzip(data, 500)) == b"hello" * 100
    for broken in (data[:-9], data[:20], b"\x1f\x8b", data[:-6] + b"????" + data[-2:]):
        with pytest.raises((EOFError, OSError, zlib.error)):
            gunzip(broken, 500)


# Each would take 60 MB and more.
GREEDY = {
    "empty lists": lambda: b"[" + b"[]," * 1_100_000 + b"0]",
    "empty objects": lambda: b"[" + b"{}," * 1_100_000 + b"0]",
    "numbers": lambda: b"[" + b"1.5," * 1_100_000 + b"0]",
    "keys": lambda: b'{"a":1' + b',"a":1' * 600_000 + b"}",
    "text": lambda: b'"' + b"a" * (17 * MIB) + b'"',
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_large_json_is_not_parsed(name: str) -> None:
    """Only its letters are counted, beside the bytes that are there already."""
    data = GREEDY[name]()
    allowed = len(data) / MIB + 1
    assert refused(lambda: parse_json(data), "at most|more than") < allowed


@pytest.mark.parametrize(
    "text",
    [
        "[" * 101 + "]" * 101,
        '{"a":' * 101 + "1" + "}" * 101,
        '[{"a":' * 60 + "1" + "}]" * 60,
        "[" * 100_000,
        "[" * 400_000 + "]" * 400_000,
    ],
)
def test_a_deep_json_is_not_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="nests more than 100 deep|Expecting value"):
        parse_json(text)


def test_an_honest_json() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    for value in (deep, {"a": [1, None, "é[[["]}, "text", 3, [], {}):
        assert parse_json(json.dumps(value)) == value
        assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1,]", b"\xff\xfe{}", b"{'a': 1}", b"9" * 5000, b"\x80\x04N."]
)
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(data)


def test_read_json_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    many = json.dumps(["," * 1_100_000])
    for text, reason in (
        ("[" * 200 + "]" * 200, "nests more than 100 deep"),
        (many, "has more than 1,048,576 values"),
        ("[", "Expecting value.*"),
    ):
        path.write_text(text)
        with pytest.raises(
            UserError, match=f"the list '.*a.json': .*{reason}; go home"
        ):
            read_json(path, "list", "go home")
    # A list of files may be longer, as its reader says.
    path.write_text(many)
    assert len(read_json(path, "list", "go home", entries=20_000)) == 1
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="a pipe, a device or a folder"):
        read_json(path, "list", "go home")


def test_the_door_imports_nothing_heavy() -> None:
    """Every command reads a JSON, and few need NumPy."""
    for module in ("sizes", "text"):
        source = Path(sys.modules[f"mlp_mixer.untrusted.{module}"].__file__ or "")
        assert "numpy" not in source.read_text()
