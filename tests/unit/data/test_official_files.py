from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mlp_mixer.data import official_files
from mlp_mixer.data.official_files import find_file, read_file
from mlp_mixer.errors import UserError


def test_the_first_place_and_name_win(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    wanted = (("", "raw"), ("a", "a.gz"))
    assert find_file(tmp_path, *wanted) is None
    (tmp_path / "raw" / "a.gz").touch()
    assert find_file(tmp_path, *wanted) == tmp_path / "raw" / "a.gz"
    (tmp_path / "raw" / "a").touch()
    assert find_file(tmp_path, *wanted) == tmp_path / "raw" / "a"
    (tmp_path / "a.gz").touch()
    assert find_file(tmp_path, *wanted) == tmp_path / "a.gz"
    (tmp_path / "a").mkdir()
    assert find_file(tmp_path, *wanted) == tmp_path / "a.gz"


def test_plain_and_gzipped_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for written in (b"hello", gzip.compress(b"hello", mtime=0)):
        path.write_bytes(written)
        assert read_file(path) == b"hello"


def test_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small gzip file can unpack to gigabytes; it is stopped on the way."""
    monkeypatch.setattr(official_files, "_MOST_BYTES", 1000)
    path = tmp_path / "a"
    for written in (bytes(1001), gzip.compress(bytes(10**5), mtime=0)):
        path.write_bytes(written)
        assert len(written) <= 1001
        with pytest.raises(UserError, match="cannot read .*a': it h.* 1,000 "):
            read_file(path)


@pytest.mark.parametrize("written", [b"\x1f\x8b", b"\x1f\x8bnonsense", None])
def test_unreadable_files(tmp_path: Path, written: bytes | None) -> None:
    path = tmp_path / "a"
    if written is not None:
        path.write_bytes(written)
    with pytest.raises(UserError, match="cannot read .*a'.*or download it again"):
        read_file(path)
