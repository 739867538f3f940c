"""Files of torch.save, read without running anything from them.

The pickle is walked as data, opcode by opcode: no name in it is imported, nothing is
called, and only text is hashed. (`torch.load`, even with `weights_only`, crashes on
deeply nested tuple keys, and a 300-byte file can make it hang.) Tensors stay
descriptions until it is known which of them may be weights: what optimisers keep, often
most of a file, is not read.

What training scripts add (`argparse.Namespace`, mmengine's histories, NumPy scalars,
paths) is on a short list and read as nothing. Every other class or function is refused
by name.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...errors import UserError
from ...untrusted.zips import read_member
from .contents import Contents, check_claim
from .nested import Leaves, leaves
from .pickle_walk import Named, Storage, View, is_size, walk

_MOST_AXES = 8


def read_zip(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    source: str,
    size: int,
) -> Contents:
    """Read a state dict, bare or wrapped, from torch's zip format.

    Args:
        archive: The file.
        members: Its directory by name.
        source: Its path, for the errors.
        size: Its bytes.

    Returns:
        Tensors and class names.

    Raises:
        UserError: It is not such a file, or holds something that is refused.
    """
    if any("/code/" in name for name in members):
        raise UserError(
            f"{source} is a TorchScript archive, which is code; save the state_dict() "
            "of its model"
        )
    roots = [name for name in members if name.endswith("/data.pkl")]
    if not roots:
        raise UserError(
            f"{source} is a zip archive, but none that torch, NumPy or Keras wrote; "
            "give a file of weights"
        )
    root = roots[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        return read_member(archive, members[root + name])

    if f"{root}byteorder" in members and member("byteorder") != b"little":
        raise UserError(
            f"{source} was saved by a big-endian machine; save it there as safetensors"
        )
    loaded = walk(io.BytesIO(member("data.pkl")), source, {})
    return _contents(loaded, lambda s: member(f"data/{s.key}"), source, size)


def read_legacy(file: BinaryIO, source: str, size: int) -> Contents:
    """Read a state dict from torch's format before 1.6.

    It is five pickles (magic number, version, machine, weights, keys of the storages),
    then each storage's length and numbers.

    Args:
        file: The file, at its beginning.
        source: Its path, for the errors.
        size: Its bytes.

    Returns:
        Tensors and class names.

    Raises:
        UserError: It is not such a file, or holds something that is refused.
        ValueError: It is damaged.
    """
    storages: dict[str, Storage] = {}
    if walk(file, source, {}) != torch.serialization.MAGIC_NUMBER:
        raise UserError(
            f"{source} is a pickle, but none of torch.save; save `model.state_dict()` "
            "with torch.save"
        )
    walk(file, source, storages)
    walk(file, source, storages)
    loaded = walk(file, source, storages)
    keys = walk(file, source, storages)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.numel:
            raise ValueError(f"the storage {key[:80]!r} is not as long as stated")
        length = storage.numel * storage.dtype.itemsize
        places[key] = (file.tell(), length)
        # Skipped, not read: the optimiser's storages may be most of the file.
        if file.seek(length, io.SEEK_CUR) > size:
            raise ValueError("it is cut off")

    def read(storage: Storage) -> bytes:
        place, length = places[storage.key]
        file.seek(place)
        return file.read(length)

    return _contents(loaded, read, source, size)


def _contents(
    loaded: Any, read: Callable[[Storage], bytes], source: str, size: int
) -> Contents:
    """Find the weights in what a pickle describes, and read their storages alone."""
    found = leaves(loaded, _is_view, source) if isinstance(loaded, dict) else Leaves()
    if not found.tensors:
        raise UserError(
            f"{source} holds {kind_of(loaded)}, expected tensors by name, as "
            "`model.state_dict()` gives"
        )
    views = {name: _view(name, view, source) for name, view in found.tensors.items()}
    claimed = sum(
        math.prod(view.shape) * view.storage.dtype.itemsize for view in views.values()
    )
    check_claim(source, claimed, size)
    # Each storage once: several tensors may be views of one.
    storages = {view.storage for view in views.values()}
    flat = {storage: _flat(read(storage), storage) for storage in storages}
    tensors = {}
    for name, view in views.items():
        numbers = flat[view.storage]
        tensors[name] = numbers.as_strided(view.shape, view.strides, view.offset)
    others = {name: kind_of(value) for name, value in found.others.items()}
    return Contents(tensors, "torch", found.class_names, others=others, root=found.root)


def _flat(data: bytes, storage: Storage) -> Tensor:
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"the storage {storage.key[:80]!r} is not as long as stated")
    if not data:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _is_view(value: Any) -> bool:
    return isinstance(value, View)


def _view(name: str, value: View, source: str) -> View:
    """Check that a tensor lies inside its storage."""
    storage, offset, shape, strides = value
    sizes = (offset, *shape, *strides)
    sensible = isinstance(storage, Storage) and len(shape) <= _MOST_AXES
    if not sensible or not all(map(is_size, sizes)):
        raise ValueError(f"{name[:80]!r} has no sensible shape")
    numel = math.prod(shape)
    steps = zip(shape, strides, strict=True)
    last = offset + sum((length - 1) * stride for length, stride in steps)
    # An expanded tensor (stride 0) is larger than its storage: it would multiply in
    # memory when it is copied.
    if numel > storage.numel or (numel > 0 and last >= storage.numel):
        raise UserError(
            f"{source} stores {name[:80]!r} as a view larger than its data: damaged or "
            "a trap, refused"
        )
    return value


def kind_of(value: Any, *, inside: bool = True) -> str:
    """Say what a value in a pickle is.

    Args:
        value: What the walk over the pickle gave.
        inside: Also say what a dict holds.
    """
    if isinstance(value, dict) and value and inside:
        shown = []
        for key, item in list(value.items())[:4]:
            shown.append(f"{key[:40]!r} ({kind_of(item, inside=False)})")
        return f"a dict of {', '.join(shown)}"
    if isinstance(value, Named):
        return f"an object of {value.name.partition('.')[0]}"
    if isinstance(value, View):
        return "a tensor"
    return f"a value of type {type(value).__name__}"
