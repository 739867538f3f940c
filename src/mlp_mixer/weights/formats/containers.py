"""Bytes of every kind of checkpoint file as named tensors, and back. No code from a
file ever runs.

Before anything is read, a file's own claims are compared with its size, so that a few
bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import contextlib
import io
import math
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...errors import UserError
from . import hdf5
from . import torch_pickle as pickles
from .contents import (
    Contents,
    check_claim,
    check_number,
    read_member,
    to_numpy,
    to_torch,
)

_HEADER_LIMIT = 4 * 2**20
"""Bytes of a safetensors header; real ones have kilobytes, and a million empty tensors
would take seconds to parse.
"""

_SIGNS = (
    (
        (b"<!doctype", b"<html", b"<?xml"),
        "is a web page, not a file of weights: the download went wrong",
    ),
    (
        (b"version https://git-lfs",),
        "is a git-lfs pointer, not the file itself: run `git lfs pull`",
    ),
    ((b"\xff\xd8\xff", b"\x89png"), "is a picture"),
    ((b"\x1f\x8b",), "is compressed by gzip: unpack it first"),
)


def read(path: Path) -> Contents:
    """Read a file of weights, recognised by its first bytes, not by its name;
    `UserError` if it is none or damaged.
    """
    with _damaged(path):
        source = repr(str(path))
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"{source} is a pipe, a device or a folder, expected a file of weights"
            )
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            if head.startswith(b"PK\x03\x04"):
                contents = _read_archive(zipfile.ZipFile(file), path, status.st_size)
            elif head.startswith(b"\x89HDF\r\n\x1a\n"):
                contents = hdf5.read_hdf5(file, source, status.st_size)
            elif (
                head[8:9] == b"{"
                and int.from_bytes(head[:8], "little") <= status.st_size - 8
            ):
                contents = _read_safetensors(path)
            elif head[:1] == b"\x80":
                contents = pickles.read_legacy(file, source, status.st_size)
            else:
                kinds = "give an npz, safetensors, pt, pth, bin, h5 or keras file"
                raise UserError(f"{source} {_what_it_is(head, path)}; {kinds}")
        return _checked(contents, source)


def _checked(contents: Contents, source: str) -> Contents:
    """Refuse a file without tensors, and names that would garble a message."""
    if not contents.tensors:
        raise UserError(
            f"{source} holds no tensors; give the weights of a trained Mixer"
        )
    if odd := next(
        (
            name
            for name in contents.tensors
            if len(name) > 200 or not name.isprintable()
        ),
        None,
    ):
        raise UserError(
            f"{source} names a tensor {odd[:80]!r}, as no model does: it is damaged or a trap, refused"
        )
    return contents


def to_bytes(
    suffix: str,
    tensors: Mapping[str, Tensor],
    *,
    wrap: str | None = None,
    meta: Any = None,
) -> bytes:
    """A file of the kind that the suffix names; `wrap`: the key under which a .pth
    keeps them, beside `meta`.
    """
    plain = {
        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
    }
    if suffix == ".safetensors":
        return safetensors.torch.save(plain, {"format": "pt"})
    if suffix == ".h5":
        return hdf5.to_bytes(plain)
    buffer = io.BytesIO()
    if suffix == ".npz":
        arrays: dict[str, Any] = {
            name: to_numpy(tensor) for name, tensor in plain.items()
        }
        np.savez(buffer, **arrays)
    else:
        # Cloned, because torch.save writes whole storages, and views of one storage
        # would be written entwined.
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
    except PermissionError as error:
        raise UserError(
            f"{str(path)!r} may not be read: permission denied; ask for it, or change it"
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{str(path)!r} asks for more memory than there is: damaged, or too large for here"
        ) from error
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        reason = "".join(letter if letter.isprintable() else "?" for letter in text)
        raise UserError(
            f"{str(path)!r} is damaged and cannot be read ({reason}); copy or download it again"
        ) from error


def _what_it_is(head: bytes, path: Path) -> str:
    if not head:
        return "is empty (0 bytes)"
    if sign := next(
        (what for starts, what in _SIGNS if head.lstrip().lower().startswith(starts)),
        None,
    ):
        return sign
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    if path.suffix == ".safetensors":
        return "is damaged: it has no readable safetensors header"
    return "is no file of weights, or its beginning is damaged"


def _read_safetensors(path: Path) -> Contents:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _HEADER_LIMIT:
        raise UserError(
            f"{str(path)!r} has a header of {length:,} bytes, at most {_HEADER_LIMIT:,} are read"
        )
    with safetensors.safe_open(path, framework="pt") as file:
        check_number(repr(str(path)), len(file.keys()))
        return Contents(
            {n: file.get_tensor(n) for n in file.keys()},  # noqa: SIM118 - no dict
            "safetensors",
            file.metadata() or {},
        )


def _read_archive(archive: zipfile.ZipFile, path: Path, size: int) -> Contents:
    """A zip of NumPy, Keras or torch, after a look at what its directory claims;
    nothing is unpacked to the disk.
    """
    source = repr(str(path))
    listed = archive.infolist()
    members = {member.filename: member for member in listed}
    check_number(source, len(listed))
    check_claim(source, sum(member.file_size for member in listed), size)
    if len(members) < len(listed):
        raise UserError(
            f"{source} holds two members of one name: it is damaged or a trap, refused"
        )
    if weights := members.get(
        "model.weights.h5"
    ):  # Keras; the model's configuration beside it is not run
        return hdf5.read_hdf5(
            io.BytesIO(read_member(archive, weights)), source, weights.file_size
        )
    if not all(name.endswith(".npy") for name in members):
        return pickles.read_zip(archive, members, source, size)
    return Contents(
        {
            name.removesuffix(".npy"): _read_npy(
                read_member(archive, member), f"{source}: {name!r}"
            )
            for name, member in members.items()
        },
        "npz",
    )


def _read_npy(data: bytes, what: str) -> Tensor:
    """One array; its header must claim exactly the bytes that follow, and no Python
    objects.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise UserError(
            f"{what} holds Python objects, which are not read: they could run code"
        )
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != len(data) - file.tell()
    ):
        raise UserError(
            f"{what} claims the shape {shape} of {dtype}, which is not what follows: damaged, refused"
        )
    array = (
        np.frombuffer(data, dtype, offset=file.tell())
        .reshape(shape[::-1] if fortran else shape)
        .copy()
    )
    return to_torch(array.T if fortran else array, what)
