"""Bytes of every kind of checkpoint file as named tensors, and back.

No code from a file ever runs. Before anything is read, a file's own claims are compared
with its size, so that a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ...errors import UserError
from ...untrusted.arrays import read_npy
from ...untrusted.zips import claimed_bytes, open_zip, read_member
from . import torch_pickle
from .contents import (
    Contents,
    check_claim,
    check_number,
    to_numpy,
    to_torch,
)

_HEADER_LIMIT = 4 * 2**20
"""Bytes of a safetensors header; real ones have kilobytes.

A million empty tensors would take seconds to parse.
"""

_LONGEST_NAME = 200

# First bytes -> what the file is instead of weights; compared in lower case.
_OTHER_FILES = (
    (b"<!doctype", "is a web page, not a file of weights: the download went wrong"),
    (b"<html", "is a web page, not a file of weights: the download went wrong"),
    (b"<?xml", "is a web page, not a file of weights: the download went wrong"),
    (
        b"version https://git-lfs",
        "is a git-lfs pointer, not the file itself: run `git lfs pull`",
    ),
    (b"\xff\xd8\xff", "is a picture"),
    (b"\x89png", "is a picture"),
    (b"\x1f\x8b", "is compressed by gzip: unpack it first"),
)


def read(path: Path) -> Contents:
    """Read a file of weights, recognised by its first bytes, not by its name.

    Args:
        path: The file.

    Returns:
        Its tensors and metadata.

    Raises:
        UserError: It is no file of weights, or damaged, or a trap.
    """
    source = repr(str(path))
    with _damaged(source):
        status = path.stat()
        # Opening a pipe would wait for a writer, and /dev/zero never ends.
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"{source} is a pipe, a device or a folder, expected a file of weights"
            )
        if path.suffix == ".distcp":
            raise UserError(
                f"{source} is a part of a distributed checkpoint of PyTorch; give its "
                "folder"
            )
        with path.open("rb") as file:
            contents = _read_by_sign(file, path, source, status.st_size)
        return checked(contents, source)


def read_bytes(data: io.BytesIO, source: str) -> Contents:
    """Read the bytes of a file of weights that is in memory.

    Args:
        data: All its bytes.
        source: What errors call it.

    Returns:
        Its tensors and metadata.

    Raises:
        UserError: It is no file of weights, or damaged, or a trap.
    """
    with _damaged(source):
        size = data.getbuffer().nbytes
        return checked(_read_by_sign(data, None, source, size), source)


def _hdf5() -> ModuleType:
    # Imported here: h5py takes a while, and few files are HDF5.
    from . import hdf5

    return hdf5


def _read_by_sign(
    file: BinaryIO, path: Path | None, source: str, size: int
) -> Contents:
    """Choose the reader by the first bytes; without a path they are in memory."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(open_zip(file), source, size)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5().read_hdf5(file, source, size)
    # safetensors begins with the length of its header, which is a JSON object.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return _read_safetensors(file, path, source)
    if head[:1] == b"\x80":
        return torch_pickle.read_legacy(file, source, size)
    raise UserError(
        f"{source} {_what_it_is(head, source)}; give an npz, safetensors, pt, pth, bin, "
        "h5 or keras file"
    )


def checked(contents: Contents, source: str) -> Contents:
    """Refuse a file without tensors, and names that would garble a message.

    Args:
        contents: What was read.
        source: What errors call it.

    Raises:
        UserError: It holds no tensors, or one of an impossible name.
    """
    if not contents.tensors:
        raise UserError(
            f"{source} holds no tensors; give the weights of a trained Mixer"
        )
    for name in contents.tensors:
        # Errors quote names: control characters could rewrite a terminal.
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise UserError(
                f"{source} names a tensor {name[:80]!r}, as no model does: it is "
                "damaged or a trap, refused"
            )
    return contents


def to_bytes(
    suffix: str,
    tensors: Mapping[str, Tensor],
    *,
    wrap: str | None = None,
    meta: Any = None,
) -> bytes:
    """Return a file of weights as bytes.

    Args:
        suffix: The kind of file: ".safetensors", ".h5" or ".npz"; any other means
            torch.save.
        tensors: The tensors by name.
        wrap: The key under which a file of torch.save keeps them, beside `meta`.
        meta: What stands under the key "meta" then.
    """
    plain = {
        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
    }
    if suffix == ".safetensors":
        return safetensors.torch.save(plain, {"format": "pt"})
    if suffix == ".h5":
        return _hdf5().to_bytes(plain)
    buffer = io.BytesIO()
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: to_numpy(t) for name, t in plain.items()}
        np.savez(buffer, **arrays)
        return buffer.getvalue()
    # Cloned, because torch.save writes whole storages: two views of one storage would
    # be written entwined.
    plain = {name: tensor.clone() for name, tensor in plain.items()}
    torch.save({"meta": meta or {}, wrap: plain} if wrap else plain, buffer)
    return buffer.getvalue()


@contextlib.contextmanager
def _damaged(source: str) -> Iterator[None]:
    """Turn whatever the readers raise on hostile bytes into one `UserError`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"no checkpoint at {source}; check the path, or see "
            "`mlp-mixer models --weights`"
        ) from error
    except PermissionError as error:
        raise UserError(
            f"{source} may not be read: permission denied; ask for it, or change it"
        ) from error
    except MemoryError as error:
        raise UserError(
            f"{source} asks for more memory than there is: damaged, or too large "
            "for here"
        ) from error
    except Exception as error:
        # The text may quote the file's own bytes: one printable line of it is enough.
        text = " ".join(str(error).split())[:200] or type(error).__name__
        reason = "".join(letter if letter.isprintable() else "?" for letter in text)
        raise UserError(
            f"{source} is damaged and cannot be read ({reason}); copy or download "
            "it again"
        ) from error


def _what_it_is(head: bytes, source: str) -> str:
    """Say what a file is that no reader takes."""
    if not head:
        return "is empty (0 bytes)"
    start = head.lstrip().lower()
    for sign, what in _OTHER_FILES:
        if start.startswith(sign):
            return what
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    if source.endswith(".safetensors'"):
        return "is damaged: it has no readable safetensors header"
    return "is no file of weights, or its beginning is damaged"


def _read_safetensors(file: BinaryIO, path: Path | None, source: str) -> Contents:
    length = int.from_bytes(file.read(8), "little")
    if length > _HEADER_LIMIT:
        raise UserError(
            f"{source} has a header of {length:,} bytes, at most {_HEADER_LIMIT:,} are "
            "read"
        )
    if path is None:
        header = json.loads(file.read(length))
        check_number(source, len(header))
        file.seek(0)
        tensors = safetensors.torch.load(file.read())
        return Contents(tensors, "safetensors", header.get("__metadata__") or {})
    with safetensors.safe_open(path, framework="pt") as opened:
        names = list(opened.keys())
        check_number(source, len(names))
        tensors = {name: opened.get_tensor(name) for name in names}
        return Contents(tensors, "safetensors", opened.metadata() or {})


def _read_archive(archive: zipfile.ZipFile, source: str, size: int) -> Contents:
    """Read a zip of NumPy, Keras or torch; nothing is unpacked to the disk."""
    listed = archive.infolist()
    members = {member.filename: member for member in listed}
    # First a look at what the directory claims, before any member is read.
    check_claim(source, claimed_bytes(listed), size)
    # Keras keeps the model's configuration beside its weights; it is not run.
    if weights := members.get("model.weights.h5"):
        unpacked = io.BytesIO(read_member(archive, weights))
        return _hdf5().read_hdf5(unpacked, source, weights.file_size)
    if not all(name.endswith(".npy") for name in members):
        return torch_pickle.read_zip(archive, members, source, size)
    tensors = {}
    for name, member in members.items():
        what = f"{source}: {name!r}"
        try:
            with archive.open(member) as file:
                array = read_npy(cast("BinaryIO", file), member.file_size)
        except ValueError as error:
            raise UserError(f"{what}: {error}: refused") from error
        tensors[name.removesuffix(".npy")] = to_torch(array, what)
    return Contents(tensors, "npz")
