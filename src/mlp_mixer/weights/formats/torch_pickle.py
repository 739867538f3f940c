"""Files of torch.save, read without running anything from them.

The pickle is walked as data, opcode by opcode: no name in it is imported, nothing is
called, and only text is hashed. (`torch.load`, even with `weights_only`, crashes on
deeply nested tuple keys, and a 300-byte file can make it hang.) Tensors stay
descriptions until the weights are found among them; then only those are read.

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
from .class_names import class_names
from .contents import Contents, check_claim, check_number, read_member
from .pickle_walk import Named, Storage, View, is_size, walk

_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model",
    "net",
    "params",
)
"""Where training scripts keep the weights, best first.

The average of the weights comes before the weights of the last step, as in timm.
"""

_MOST_WRAPPERS = 8
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
    weights, names, notes = _unwrap(loaded, source)
    views = {name: _view(name, value, source) for name, value in weights.items()}
    check_number(source, len(views))
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
    return Contents(tensors, "torch", names, notes)


def _flat(data: bytes, storage: Storage) -> Tensor:
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"the storage {storage.key[:80]!r} is not as long as stated")
    if not data:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _unwrap(
    loaded: Any, source: str
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Return the state dict inside the wrappers, the class names, and where it was."""
    names: dict[str, Any] = {}
    keys: list[str] = []
    while isinstance(loaded, dict):
        if found := class_names(loaded):
            names = {"CLASSES": found}
        if any(isinstance(value, View) for value in loaded.values()):
            notes = (f"weights taken from {'.'.join(keys)}",) if keys else ()
            return loaded, names, notes
        key = _wrapper(loaded)
        # Bounded, because a pickled dict may contain itself.
        if key is None or len(keys) == _MOST_WRAPPERS:
            break
        loaded = loaded[key]
        keys.append(key)
    raise UserError(
        f"{source} holds {_kind(loaded)}, expected tensors by name, as "
        "`model.state_dict()` gives"
    )


def _wrapper(loaded: Mapping[str, Any]) -> str | None:
    """Return the best key under which there is another dict."""
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), dict) and loaded[key]:
            return key
    return None


def _view(name: str, value: Any, source: str) -> View:
    """Check that a value is an ordinary tensor inside its storage."""
    if name.startswith("<") or not isinstance(value, View):
        raise UserError(
            f"{source} holds {_kind(value)} under the key {name[:80]!r}, expected only "
            "tensors by name"
        )
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


def _kind(value: Any, *, inside: bool = True) -> str:
    """Say what a value is."""
    if isinstance(value, dict) and value and inside:
        shown = []
        for key, item in list(value.items())[:4]:
            shown.append(f"{key[:40]!r} ({_kind(item, inside=False)})")
        return f"a dict of {', '.join(shown)}"
    if isinstance(value, Named):
        return f"an object of {value.name.partition('.')[0]}"
    if isinstance(value, View):
        return "a tensor"
    return f"a value of type {type(value).__name__}"
