"""Files that are no weights are named; what is no file does not hang."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlp_mixer import create_model, save

from ..small_files import refused, saved, state


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(data))
    return buffer.getvalue()


def pictured(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            r"is empty \(0 bytes\); give an npz, safetensors, pt, pth, bin, h5 or keras file",
        ),
        (
            b"<!DOCTYPE html><html>404</html>",
            "is a web page, not a file of weights: the download went wrong",
        ),
        (b"\n<?xml version='1.0'?><Error/>", "is a web page, not a file of weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a git-lfs pointer, .* run `git lfs pull`",
        ),
        (
            gzip.compress(saved(state()), mtime=0),
            "is compressed by gzip: unpack it first",
        ),
        (tarred(b"x"), "is a tar archive: unpack it first"),
        (pictured("JPEG"), "is a picture; give"),
        (pictured("PNG"), "is a picture; give"),
        (b"accuracy 0.9\n", "is no file of weights, or its beginning is damaged"),
        (bytes(1000), "is no file of weights, or its beginning is damaged"),
        (b"\x80", "damaged and cannot be read"),
        (b"PK\x03\x04", "damaged and cannot be read"),
        (b"\x89HDF\r\n\x1a\n", "damaged and cannot be read"),
        (
            b"cos\nsystem\n(S'false'\ntR.",
            "is no file of weights, or its beginning is damaged",
        ),
    ],
    ids=lambda value: str(value[:12]),
)
def test_other_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "file.pth").write_bytes(data)
    refused(tmp_path / "file.pth", message)


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(
        tmp_path / "pipe", "is a pipe, a device or a folder, expected a file of weights"
    )
    refused(Path("/dev/zero"), "is a pipe, a device or a folder")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    refused(tmp_path / "circle", "no checkpoint at")
    (tmp_path / "best.safetensors").mkdir()
    refused(tmp_path, "holds no best.safetensors")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", create_model("mixer_nano4"))
    path.chmod(0)
    refused(path, "may not be read: permission denied")


def test_permission_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "m.safetensors", create_model("mixer_nano4"))
    monkeypatch.setattr(Path, "open", closed)
    refused(path, "may not be read: permission denied")
