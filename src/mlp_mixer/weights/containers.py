"""Bytes of every kind of checkpoint file as named tensors, and back. No code from a file ever runs.

Before anything is read, a file's own claims are compared with its size, so that a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import UserError
from . import hdf5
from .contents import Contents, check_claim
from .pickles import read_torch

_HEADER_LIMIT = 32 * 2**20
"""Bytes of a safetensors header; real ones have kilobytes, and a million empty tensors would take seconds to parse."""


def read(path: Path) -> Contents:
    """Read a file of weights, recognised by its first bytes, not by its name; `UserError` if it is none or damaged."""
    with _damaged(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if "model.weights.h5" in names:
                return hdf5.read_keras(path)
            return _read_npz(path, size) if all(n.endswith(".npy") for n in names) else read_torch(path)
        if head.startswith(b"\x89HDF\r\n\x1a\n"):
            return hdf5.read_hdf5(path, path.name, size)
        if size > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
            return _read_safetensors(path)
        if head[:1] == b"\x80":
            return read_torch(path)
    raise UserError(
        f"{str(path)!r} {_what_it_is(head, path)}; give an npz, safetensors, pt, pth, bin, h5 or keras file"
    )


def to_bytes(suffix: str, tensors: Mapping[str, Tensor], *, wrap: str | None = None, meta: Any = None) -> bytes:
    """A file of the kind that the suffix names; `wrap`: the key under which a .pth keeps them, beside `meta`."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if suffix == ".safetensors":
        return safetensors.torch.save(plain, {"format": "pt"})
    if suffix == ".h5":
        return hdf5.to_bytes(plain)
    buffer = io.BytesIO()
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: _to_numpy(tensor) for name, tensor in plain.items()}
        np.savez(buffer, **arrays)
    else:
        # Cloned, because torch.save writes whole storages, and views of one storage would be written entwined.
        plain = {name: tensor.clone() for name, tensor in plain.items()}
        torch.save({"meta": meta or {}, wrap: plain} if wrap else plain, buffer)
    return buffer.getvalue()


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Whatever the readers raise on hostile bytes becomes one `UserError`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"no checkpoint at {str(path)!r}; check the path, or see `mlp-mixer models --weights`"
        ) from error
    except MemoryError as error:
        raise UserError(f"{str(path)!r} asks for more memory than there is: damaged, or too large for here") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{str(path)!r} is damaged and cannot be read ({reason}); copy or download it again") from error


def _what_it_is(head: bytes, path: Path) -> str:
    text = head.lstrip().lower()
    if not head:
        return "is empty (0 bytes)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a file of weights: the download went wrong"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull`"
    if path.suffix == ".safetensors":
        return "is damaged: it has no readable safetensors header"
    return "is no file of weights, or its beginning is damaged"


def _read_safetensors(path: Path) -> Contents:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _HEADER_LIMIT:
        raise UserError(f"{str(path)!r} has a header of {length:,} bytes, at most {_HEADER_LIMIT:,} are read")
    with safetensors.safe_open(path, framework="pt") as file:
        return Contents({n: file.get_tensor(n) for n in file.keys()}, "safetensors", file.metadata() or {})  # noqa: SIM118


def _read_npz(path: Path, size: int) -> Contents:
    tensors: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_claim(repr(str(path)), sum(member.file_size for member in members), size)
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in tensors:
                raise UserError(f"{str(path)!r} holds {name!r} twice: it is damaged or a trap, refused")
            tensors[name] = _read_npy(archive, member, f"{str(path)!r}: {name!r}")
    return Contents(tensors, "npz")


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> Tensor:
    """One array; its header must claim exactly the bytes that follow, and no Python objects."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise UserError(f"{what} holds Python objects, which are not read: they could run code")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise UserError(f"{what} claims the shape {shape} of {dtype}, which is not what follows: damaged, refused")
        data = file.read()
    array = np.frombuffer(data, dtype).reshape(shape[::-1] if fortran else shape).copy()
    return _to_torch(array.T if fortran else array, what)


def _to_torch(array: np.ndarray[Any, Any], what: str) -> Tensor:
    """As torch stores it; big_vision writes bfloat16 as two opaque bytes."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise UserError(f"{what} holds {array.dtype}, expected numbers") from error


def _to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.view(torch.int16).numpy().view("V2") if tensor.dtype == torch.bfloat16 else tensor.numpy()
