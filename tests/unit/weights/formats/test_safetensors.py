"""safetensors headers that lie are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ..small_files import BIAS, refused, state


def header(
    tensors: dict[str, Any], data: bytes = b"", *, length: int | None = None
) -> bytes:
    """A safetensors file with this header."""
    line = json.dumps(tensors).encode()
    return struct.pack("<Q", len(line) if length is None else length) + line + data


def entry(
    start: int, end: int, shape: tuple[int, ...] = (4,), dtype: str = "F32"
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "longer than the file": (
        lambda: header({}, length=10**6),
        "no readable safetensors header",
    ),
    "of no length": (lambda: header({}, length=0), "damaged and cannot be read"),
    "of 2^64 bytes": (
        lambda: header({}, length=2**64 - 1),
        "no readable safetensors header",
    ),
    "of 33 MB": (
        lambda: header({"x" * 33_000_000: 1}),
        r"has a header of 33,000,\d\d\d bytes, at most 4,194,304 are",
    ),
    "of 30,000 empty tensors": (
        lambda: header({str(i): entry(0, 0, (0,)) for i in range(30_000)}),
        "lists more than 20,000 entries",
    ),
    "without tensors": (
        lambda: header({"__metadata__": {"a": "b"}}),
        "holds no tensors",
    ),
    "of an empty dict": (lambda: header({}), "holds no tensors"),
    "that is cut off": (
        lambda: header({"a": entry(0, 16)}, BIAS.tobytes())[:30],
        "no readable safetensors header",
    ),
    "that is no JSON": (
        lambda: struct.pack("<Q", 4) + b"{abc",
        "damaged and cannot be read .*header",
    ),
    "deeply nested": (
        lambda: struct.pack("<Q", 10**6) + b"{" + b'"a":{' * 199_999 + b"    ",
        "damaged and cannot be",
    ),
    "overlap": (
        lambda: header({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)),
        "damaged and cannot be read",
    ),
    "a gap": (
        lambda: header({"a": entry(0, 16), "b": entry(24, 40)}, bytes(40)),
        "damaged and cannot be read",
    ),
    "out of range": (
        lambda: header({"a": entry(0, 16)}, bytes(8)),
        "damaged and cannot be read",
    ),
    "more than is named": (
        lambda: header({"a": entry(0, 16)}, bytes(24)),
        "damaged and cannot be read",
    ),
    "backwards": (
        lambda: header({"a": entry(16, 0)}, bytes(16)),
        "damaged and cannot be read",
    ),
    "a wrong shape": (
        lambda: header({"a": entry(0, 16, (5,))}, bytes(16)),
        "damaged and cannot be read",
    ),
    "a huge shape": (
        lambda: header({"a": entry(0, 16, (2**63, 2**63))}, bytes(16)),
        "damaged and cannot be read",
    ),
    "an unknown dtype": (
        lambda: header({"a": entry(0, 16, (4,), "X32")}, bytes(16)),
        "damaged and cannot be read",
    ),
    "8-bit numbers": (
        lambda: safetensors.torch.save(
            state() | {"head.bias": torch.ones(4).to(torch.float8_e4m3fn)}
        ),
        "stores head.bias as float8_e4m3fn, expected fp32, fp16 or bf16",
    ),
    "integers": (
        lambda: safetensors.torch.save(state() | {"head.bias": torch.ones(4).long()}),
        "stores head.bias as int64, expected fp32, fp16 or bf16",
    ),
    "odd names": (
        lambda: header({"a\n": entry(0, 16)}, bytes(16)),
        r"names a tensor 'a\\n', as no model does",
    ),
    "names of half a letter": (
        lambda: header({"\ud800": entry(0, 16)}, bytes(16)),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_header_that_lies(tmp_path: Path, name: str) -> None:
    build, message = HEADERS[name]
    (tmp_path / "m.safetensors").write_bytes(build())
    refused(tmp_path / "m.safetensors", message)
