"""NumPy archives: honest arrays are read, and those that lie are refused."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlp_mixer import load

from ..small_files import BIAS, Trap, arrays, npy, npz, refused, same


@pytest.mark.parametrize(
    "write",
    [
        lambda array: npy(np.asfortranarray(array)),
        lambda array: npy(array.astype(array.dtype.newbyteorder(">"))),
        lambda array: npy(np.asfortranarray(array.astype(">f8"))),
        lambda array: npy(array, (2, 0)),
        lambda array: npy(array, (3, 0)),
        lambda array: npy(
            torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view("V2")
        ),
        lambda array: npy(array.astype(np.float16)),
    ],
    ids=[
        "Fortran",
        "big-endian",
        "big-endian Fortran doubles",
        "2.0",
        "3.0",
        "bfloat16",
        "float16",
    ],
)
@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED],
    ids=["stored", "deflated"],
)
def test_npz_of_every_honest_kind_is_read(
    tmp_path: Path, write: Any, compression: int
) -> None:
    rounded = {
        name: torch.from_numpy(array).bfloat16().half().float().numpy()
        for name, array in arrays().items()
    }
    path = npz(
        tmp_path / "m.npz",
        {name: write(array) for name, array in rounded.items()},
        compression=compression,
    )
    same(load(path), load(npz(tmp_path / "plain.npz", rounded)).model.state_dict())


MEMBERS: dict[str, tuple[Any, str]] = {
    "objects": (
        lambda: npy(np.array([1, None])),
        "'head/bias.npy': it holds Python objects, .* they could run code",
    ),
    "a trap": (
        lambda: npy(np.array([Trap(os.system, "false")])),
        "holds Python objects, which are not read",
    ),
    "too many": (
        lambda: npy(BIAS, shape=(5,)),
        r"'head/bias.npy': it claims float32 of the shape \(5\), and 16 bytes follow",
    ),
    "too few": (lambda: npy(BIAS, shape=(3,)), r"claims float32 of the shape \(3\)"),
    "negative": (
        lambda: npy(BIAS, shape=(-4,)),
        "claims a shape that no array has",
    ),
    "both negative": (
        lambda: npy(BIAS, shape=(-2, -2)),
        "claims a shape that no array has",
    ),
    "huge": (
        lambda: npy(BIAS, shape=(2**62, 2**62)),
        "claims float32 of the shape .*bytes follow: refused",
    ),
    "no shape": (
        lambda: npy(BIAS, shape="(4,)"),
        "it holds .*, expected numbers or text: refused",
    ),
    "long shape": (lambda: npy(BIAS, shape=(1,) * 99), "no array has"),
    "long header": (lambda: npy(BIAS, shape=(1,) * 9999), "its header claims"),
    "code": (
        lambda: npy(BIAS, descr="__import__('os').system('false')"),
        "expected numbers or text: refused",
    ),
    "structure": (
        lambda: npy(np.zeros(4, "f4,f4")),
        "holds .*'f0', '<f4'.*, expected numbers",
    ),
    "an array of arrays": (
        lambda: npy(BIAS, descr="(2,2)f4", shape=(1,)),
        "expected numbers",
    ),
    "text": (lambda: npy(np.array(list("abcd"))), "holds <U1, expected numbers"),
    "dates": (
        lambda: npy(np.zeros(4, "M8[s]")),
        r"holds '<M8\[s\]', expected numbers",
    ),
    "long doubles": (
        lambda: npy(np.zeros(4, np.longdouble)),
        "holds float128, expected numbers",
    ),
    "integers": (
        lambda: npy(np.zeros(4, np.int32)),
        "stores head/bias as int32, expected fp32, fp16 or bf16",
    ),
    "NaN": (
        lambda: npy(BIAS * np.nan),
        "NaN or infinite values in 1 of 42 tensors, first in head/bias",
    ),
    "a number": (lambda: npy(BIAS[0]), r"head/bias is \(\), expected 1 axes"),
    "no numbers": (lambda: npy(BIAS[:0]), "stores head/bias without any number"),
    "nothing": (lambda: b"", "does not begin as numpy.save writes: refused"),
    "no npy": (lambda: b"\x89PNG\r\n", "does not begin as numpy.save"),
    "version 9": (
        lambda: npy(BIAS).replace(b"NUMPY\x01", b"NUMPY\x09"),
        "does not begin as numpy.save writes",
    ),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_an_array_that_lies(tmp_path: Path, name: str) -> None:
    build, message = MEMBERS[name]
    refused(npz(tmp_path / "m.npz", arrays() | {"head/bias": build()}), message)


ARCHIVES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "an extra key": (
        lambda: arrays() | {"extra": BIAS},
        "looks like a google checkpoint but .*: unexpected extra",
    ),
    "a missing key": (
        lambda: {
            name: array for name, array in arrays().items() if name != "head/bias"
        },
        "looks like a google checkpoint but does not fit: missing head/bias",
    ),
    "a ViT": (
        lambda: {
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": np.ones(
                (6, 2, 3), np.float32
            ),
            "Transformer/posembed_input/pos_embedding": np.ones((1, 5, 6), np.float32),
            "cls": np.ones((1, 1, 6), np.float32),
        },
        "holds a Vision Transformer, not an MLP-Mixer",
    ),
    "a ResNet": (
        lambda: {
            "resnet/block1/unit01/a/standardized_conv2d/kernel": np.ones(
                (1, 1, 2, 2), np.float32
            )
        },
        r"holds a ResNet \(BiT\), not an MLP-Mixer",
    ),
    "digits": (
        lambda: {"images": np.ones((2, 8, 8)), "labels": np.ones(2)},
        "no MLP-Mixer checkpoint of any known",
    ),
    "outside names": (
        lambda: {"../../outside": BIAS, "/absolute": BIAS},
        "its tensors are ../../outside, /absolute;",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_npz_of_something_else(tmp_path: Path, name: str) -> None:
    build, message = ARCHIVES[name]
    refused(npz(tmp_path / "m.npz", build()), message)
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_other_zips(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path)
    refused(path, "is no file of weights")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.jpg", b"\xff\xd8\xff")
    refused(
        path,
        "is a zip archive, but none that torch, NumPy or Keras wrote; give a file of weights",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(2):
                archive.writestr("head/bias.npy", npy(BIAS))
    refused(path, "holds two members of one name: it is damaged or a trap")
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20_001):
            archive.writestr(f"{i}.npy", b"")
    refused(path, "lists more than 20,000 members")
    npz(path, arrays(), compression=zipfile.ZIP_BZIP2)
    refused(path, "is encrypted, or packed in an unusual way")
    data = npz(path, arrays()).read_bytes()
    path.write_bytes(data.replace(arrays()["head/bias"].tobytes(), bytes(16)))
    refused(path, "damaged and cannot be read .*Bad CRC-32 for file 'head/bias.npy'")
    path.write_bytes(
        data.replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
        )
    )
    refused(path, "damaged and cannot be read .*encrypted")
    for length in (4, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path, "damaged")
