"""Data sets whose files lie: one sentence each, and next to no memory."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_mixer.data import open_dataset
from mlp_mixer.data.class_numbers import MOST_CLASSES, numbered_classes
from mlp_mixer.errors import UserError

MIB = 2**20
PIXELS = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
LABELS = np.array([0, 1, 0, 1])


def refused(spec: str, match: str, *, most_mib: float = 4) -> None:
    """Opening a dataset says one sentence, and takes little memory on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match) as caught:
            open_dataset(spec)
        assert tracemalloc.get_traced_memory()[1] < most_mib * MIB
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def npy(array: Any, **claims: str) -> bytes:
    """An .npy file, whose header claims something else."""
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    for old, new in claims.values():
        before = len(data)
        data = data.replace(old.encode(), new.encode())
        # The header keeps its length: spaces behind it fill it up.
        data = data.replace(b" \n", b" " * (1 + before - len(data)) + b"\n", 1)
        assert len(data) == before
    return data


def write_npz(path: Path, **members: bytes) -> str:
    usual = {"x_train": npy(PIXELS), "y_train": npy(LABELS)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (usual | members).items():
            archive.writestr(f"{name}.npy", data)
    return f"npz:{path}"


SHAPE = "(4, 8, 8), }                                       "
NPZ: dict[str, tuple[dict[str, Callable[[], bytes]], str]] = {
    "a bomb of zeros": (
        {"x_train": lambda: npy(np.zeros((20_000, 32, 32), np.uint8))},
        "or a trap",
    ),
    "a bomb that is not asked for": (
        {"extra": lambda: npy(np.zeros(20 * MIB, np.uint8))},
        "or a trap",
    ),
    "a terabyte": (
        {
            "x_train": lambda: npy(
                PIXELS, a=(SHAPE, "(1099511627776, 8, 8), }" + " " * 27)
            )
        },
        "x_train.npy': it claims uint8",
    ),
    "2**63 images": (
        {"x_train": lambda: npy(PIXELS, a=(SHAPE, f"({2**63}, 8, 8), }}" + " " * 21))},
        "x_train.npy': it claims uint8",
    ),
    "minus four images": (
        {"x_train": lambda: npy(PIXELS, a=(SHAPE, "(-4, 8, 8), }" + " " * 38))},
        "a shape that no array has",
    ),
    "objects": (
        {"y_train": lambda: npy(np.array([0, 1, None, {}]))},
        "y_train.npy': it holds Python objects",
    ),
    "images of objects": (
        {"x_train": lambda: npy(PIXELS, a=("'|u1'", "'|O8'"))},
        "x_train.npy': it holds Python objects",
    ),
    "a label of 2**40": (
        {"y_train": lambda: npy(np.array([0, 1, 2**40, 1]))},
        "the largest label is 1099511627776: expected .* below 1,000,000",
    ),
    "a label of 2**63": (
        {"y_train": lambda: npy(np.array([0, 1, 2**63, 1], np.uint64))},
        "the largest label is 9223372036854775808",
    ),
    "labels of NaN": (
        {"y_train": lambda: npy(np.array([0, 1, np.nan, 1]))},
        r"labels are float64 \(4,\): expected integers",
    ),
    "labels of text": (
        {"y_train": lambda: npy(np.array(list("abab")))},
        r"labels are <U1 \(4,\): expected integers",
    ),
    "images without pixels": (
        {"x_train": lambda: npy(np.zeros((4, 0, 8), np.uint8))},
        r"images are uint8 \(4, 0, 8\): expected",
    ),
    "no letters": (
        {"classes": lambda: npy(np.array(["a", "b"])).replace(b"a\0\0\0", b"\xff" * 4)},
        "classes.npy': its text holds something else than letters",
    ),
    "classes in a table": (
        {"classes": lambda: npy(np.array([["a", "b"]]))},
        r"its classes are <U1 \(1, 2\): expected a list",
    ),
    "cut short": ({"x_train": lambda: npy(PIXELS)[:-9]}, "it claims uint8"),
    "no npy": ({"x_train": lambda: b"\x80\x04cos\nsystem\n"}, "as numpy.save writes"),
}


@pytest.mark.parametrize("name", NPZ)
def test_an_npz_that_lies(tmp_path: Path, name: str) -> None:
    members, match = NPZ[name]
    made = {member: build() for member, build in members.items()}
    refused(write_npz(tmp_path / "d.npz", **made), match)


def test_an_npz_by_column_is_the_same_dataset(tmp_path: Path) -> None:
    plain = open_dataset(write_npz(tmp_path / "a.npz"))
    spec = write_npz(tmp_path / "b.npz", x_train=npy(np.asfortranarray(PIXELS)))
    for index in range(len(plain.train)):
        np.testing.assert_array_equal(
            open_dataset(spec).train.image(index), plain.train.image(index)
        )


def test_names_of_classes_are_bounded() -> None:
    assert numbered_classes([]) == ["0"]
    assert len(numbered_classes([MOST_CLASSES - 1])) == MOST_CLASSES
    with pytest.raises(UserError, match="the largest label is 1000000"):
        numbered_classes([MOST_CLASSES])


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


IDX = {
    "a bomb that keeps its word": (
        lambda: gzip.compress(idx((26_000, 28, 28), bytes(26_000 * 784)), 9),
        "unpacks to .* or more: it is damaged or a trap",
    ),
    "4 billion images": (
        lambda: gzip.compress(idx((2**32 - 1, 28, 28), bytes(784))),
        "has 784 bytes after its header: expected",
    ),
    "sides beyond any memory": (
        lambda: idx((0, 2**32 - 1, 2**32 - 1), b""),
        "has 0 bytes after its header",
    ),
    "cut short": (
        lambda: gzip.compress(idx((2, 28, 28), bytes(2 * 784)))[:-10],
        "Compressed file ended|download it again",
    ),
}


@pytest.mark.parametrize("name", IDX)
def test_an_idx_that_lies(tmp_path: Path, name: str) -> None:
    build, match = IDX[name]
    labels = idx((2,), b"\0\1")
    for stem in ("train", "t10k"):
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(build())
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    # Of a bomb the free 16 MiB are unpacked, in a buffer that grows.
    refused(f"mnist:{tmp_path}", match, most_mib=40)


LISTS = {
    "deep": ('{"path": ' + "[" * 200 + "]" * 200 + "}", "line 1: not JSON .*nests"),
    "deeper": ("[" * 50_000 + "]" * 50_000, "line 1: not JSON"),
    "many values": ('{"a": [' + "0," * 1_100_000 + "0]}", "line 1: not JSON .*values"),
    "a long line": ('{"a": "' + "b" * 17 * MIB + '"}', "line 1: not JSON .*at most"),
    "a path of NaN": ('{"path": NaN, "label": 1}', "the path is NaN: expected a text"),
    "a label of NaN": ('{"path": "a.jsonl", "label": NaN}', "the label is NaN"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_lies(tmp_path: Path, name: str) -> None:
    text, match = LISTS[name]
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    refused(f"list:{path}", match, most_mib=4 + 3 * len(text) / MIB)


@pytest.mark.parametrize("spec", ["list:/dev/zero", "npz:/dev/zero", "list:{}/a.csv"])
def test_what_is_no_file(tmp_path: Path, spec: str) -> None:
    import os

    os.mkfifo(tmp_path / "a.csv")
    refused(spec.format(tmp_path), "a pipe, a device or a folder|expected a name")


def test_tars_with_a_deep_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tarfile

    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    for label in ("[" * 500 + "]" * 500, "1e999", "NaN", str(2**63), "-1", "true"):
        with tarfile.open(tmp_path / "train.tar", "w") as tar:
            for ending, data in (
                ("png", b"x"),
                ("json", f'{{"label": {label}}}'.encode()),
            ):
                header = tarfile.TarInfo(f"1.{ending}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        refused(f"shards:{tmp_path}", "has the label|has no label")


def test_a_description_of_shards_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    for text, match in (
        ("[" * 100_000, "does not describe shards"),
        ("[" + "{}," * 4_000_000 + "0]", "more than 4,000,000 values"),
        (
            json.dumps({"format_version": 1, "classes": {"a": 1}, "splits": {}}),
            "splits",
        ),
    ):
        path.write_text(text)
        refused(f"shards:{tmp_path}", match, most_mib=4 + 3 * len(text) / MIB)
