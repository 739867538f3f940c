"""Files of torch.save, read without running anything from them.

The pickle is walked as data, opcode by opcode: no name in it is imported, nothing is
    called, and only text is hashed.
(`torch.load`, even with `weights_only`, dies of a deeply nested tuple as a key, and 300
bytes keep it busy for ever.) Tensors stay descriptions until the weights are found
among them; then only those are read. What training scripts add (`argparse.Namespace`,
mmengine's histories, NumPy scalars, paths) is on a short list and read as nothing;
every other class or function is refused by name.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ...errors import UserError
from .contents import Contents, check_claim, check_number, read_member

_MOST_STEPS = 1_000_000
"""Opcodes of one pickle, about a second; a Mixer with its optimiser and an average
takes some 50,000.
"""

_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model",
    "net",
    "params",
)
"""Where training scripts keep the weights, in the order of preference: the average of
the weights, as timm prefers.
"""

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)
_READ_AS_DICT = (
    "addict.addict.Dict",
    "collections.Counter",
    "collections.OrderedDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
)
_READ_AS_NOTHING = """
_codecs.encode argparse.Namespace builtins.bytearray builtins.complex builtins.set
mmengine.logging.history_buffer.HistoryBuffer
numpy.dtype numpy.ndarray numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar
numpy._core.multiarray._reconstruct numpy._core.multiarray.scalar
pathlib.PosixPath pathlib.WindowsPath pathlib._local.PosixPath pathlib._local.WindowsPath
torch.Size torch.device
"""
_KNOWN = {
    *_STORAGES,
    *_TENSORS,
    *_PARAMETERS,
    *_READ_AS_DICT,
    *_READ_AS_NOTHING.split(),
    *map(str, _STORAGES.values()),
}

_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_TAKES = {
    "TUPLE1": 1,
    "TUPLE2": 2,
    "TUPLE3": 3,
    "APPEND": 1,
    "SETITEM": 2,
}  # the others take all since the last mark


class _Named(NamedTuple):
    """A class or a function, and what calling it would have given."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int


class _View(NamedTuple):
    """A tensor that has not been read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_zip(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    source: str,
    size: int,
) -> Contents:
    """A state dict, bare or wrapped; `UserError` names what is refused and why."""
    if any("/code/" in name for name in members):
        raise UserError(
            f"{source} is a TorchScript archive, which is code; save the state_dict() of its model"
        )
    root = next(
        (
            name.removesuffix("data.pkl")
            for name in members
            if name.endswith("/data.pkl")
        ),
        None,
    )
    if root is None:
        raise UserError(
            f"{source} is a zip archive, but none that torch, NumPy or Keras wrote; give a file of weights"
        )
    if (
        f"{root}byteorder" in members
        and read_member(archive, members[f"{root}byteorder"]) != b"little"
    ):
        raise UserError(
            f"{source} was saved by a big-endian machine; save it there as safetensors"
        )
    loaded = _walk(
        io.BytesIO(read_member(archive, members[f"{root}data.pkl"])), source, {}
    )
    return _contents(
        loaded,
        lambda storage: read_member(archive, members[f"{root}data/{storage.key}"]),
        source,
        size,
    )


def read_legacy(file: BinaryIO, source: str, size: int) -> Contents:
    """As `read_zip`, for the format before torch 1.6: five pickles, then each storage's
    length and numbers.
    """
    storages: dict[str, _Storage] = {}
    if _walk(file, source, {}) != torch.serialization.MAGIC_NUMBER:
        raise UserError(
            f"{source} is a pickle, but none of torch.save; save `model.state_dict()` with torch.save"
        )
    _, _, loaded, keys = (_walk(file, source, storages) for _ in range(4))
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if int.from_bytes(file.read(8), "little") != storages[key].numel:
            raise ValueError(f"the storage {key[:80]!r} is not as long as stated")
        places[key] = file.tell(), storages[key].numel * storages[key].dtype.itemsize
        if file.seek(places[key][1], io.SEEK_CUR) > size:
            raise ValueError("it is cut off")

    def read(storage: _Storage) -> bytes:
        place, length = places[storage.key]
        file.seek(place)
        return file.read(length)

    return _contents(loaded, read, source, size)


def _walk(file: BinaryIO, source: str, storages: dict[str, _Storage]) -> Any:
    """The value that a pickle describes; fills in its storages by their keys."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def take(count: int | None) -> list[Any]:
        start = marks.pop() if count is None else len(stack) - count
        taken = stack[start:]
        del stack[start:]
        return taken

    opcodes: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]] = (
        pickletools.genops(file)
    )
    for step, (opcode, argument, _) in enumerate(opcodes):
        if step == _MOST_STEPS:
            raise UserError(
                f"{source} holds a pickle of over {_MOST_STEPS:,} steps: damaged or a trap, refused"
            )
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case name if name in _NEW:
                stack.append(_NEW[name]())
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "FROZENSET":
                stack.append(tuple(take(_TAKES.get(opcode.name))))
            case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS":
                items = take(_TAKES.get(opcode.name))
                _put(stack[-1], items)
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".", 1), source))
            case "STACK_GLOBAL":
                stack.append(_named(".".join(take(2)), source))
            case "REDUCE" | "NEWOBJ":
                stack.append(_made(*take(2)))
            case "BUILD" | "POP":
                take(1)  # an object's state is not needed
            case "BINPERSID":
                _, kind, key, _, numel = take(1)[0][:5]
                stack.append(_storage(kind, key, numel, storages))
            case _ if opcode.arg and not opcode.stack_before:
                stack.append(argument)  # a number, text or bytes
            case _:
                raise ValueError(f"torch.save writes no {opcode.name}")
    return stack.pop()


def _named(name: str, source: str) -> _Named:
    """A known class or function; all others are refused here, before anything is made
    of them.
    """
    name = name.replace("__builtin__.", "builtins.", 1)
    if name in _KNOWN:
        return _Named(name)
    if name.startswith("torch._utils._rebuild_"):
        raise UserError(
            f"{source} holds a sparse, quantised, empty or unusual tensor ({name[:120]!r}); save plain ones"
        )
    raise UserError(
        f"{source} asks to run {name[:120]!r}, which is neither a tensor nor a known harmless record: refused, "
        "nothing was run; save only `model.state_dict()` where it was made"
    )


def _made(maker: _Named, arguments: Any) -> Any:
    """What calling `maker` would give, as far as it matters here."""
    if maker.name in _TENSORS:
        return (
            maker if any(arguments[6:7]) else _View(*arguments[:4])
        )  # the seventh: numbers stored negated
    if maker.name in _PARAMETERS:
        return arguments[0]
    if maker.name in _READ_AS_DICT:
        return arguments[0] if arguments and isinstance(arguments[0], dict) else {}
    return maker


def _storage(
    kind: _Named, key: str, numel: int, storages: dict[str, _Storage]
) -> _Storage:
    if not isinstance(key, str) or not _is_size(numel):
        raise ValueError("a storage has no sensible name or length")
    storage = _Storage(key, _STORAGES[kind.name], numel)
    if storages.setdefault(key, storage) != storage:
        raise ValueError(f"the storage {key[:80]!r} is described in two ways")
    return storage


def _put(target: Any, items: list[Any]) -> None:
    """Into a list or a dict. Only text is hashed: a key of another type may take for
    ever, and names no tensor.
    """
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, str) else f"<{type(key).__name__}>"] = value


def _contents(
    loaded: Any, read: Callable[[_Storage], bytes], source: str, size: int
) -> Contents:
    weights, names, note = _unwrap(loaded, source)
    views = {name: _view(name, value, source) for name, value in weights.items()}
    check_number(source, len(views))
    check_claim(
        source,
        sum(
            math.prod(view.shape) * view.storage.dtype.itemsize
            for view in views.values()
        ),
        size,
    )
    flat = {
        storage: _flat(read(storage), storage)
        for storage in {view.storage for view in views.values()}
    }
    tensors = {
        name: flat[v.storage].as_strided(v.shape, v.strides, v.offset)
        for name, v in views.items()
    }
    return Contents(tensors, "torch", names, note)


def _flat(data: bytes, storage: _Storage) -> Tensor:
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"the storage {storage.key[:80]!r} is not as long as stated")
    return (
        torch.frombuffer(bytearray(data), dtype=storage.dtype)
        if data
        else torch.empty(0, dtype=storage.dtype)
    )


def _unwrap(
    loaded: Any, source: str
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The state dict inside the wrappers, the class names beside it, and a note of
    where it was.
    """
    names: dict[str, Any] = {}
    keys: list[str] = []
    while isinstance(loaded, dict) and not any(
        isinstance(value, _View) for value in loaded.values()
    ):
        names |= _class_names(loaded.get("meta"))
        key = next(
            (
                key
                for key in _WRAPPERS
                if isinstance(loaded.get(key), dict) and loaded[key]
            ),
            None,
        )
        if key is None or len(keys) == 8:  # a dict may contain itself
            break
        loaded = loaded[key]
        keys.append(key)
    else:
        if isinstance(loaded, dict):
            return (
                loaded,
                names,
                (f"weights taken from {'.'.join(keys)}",) if keys else (),
            )
    raise UserError(
        f"{source} holds {_kind(loaded)}, expected tensors by name, as `model.state_dict()` gives"
    )


def _class_names(meta: Any) -> dict[str, Any]:
    """Where mmpretrain (nested) and mmcls keep the names of the classes."""
    meta = meta if isinstance(meta, dict) else {}
    nested = meta.get("dataset_meta")
    names = nested.get("classes") if isinstance(nested, dict) else meta.get("CLASSES")
    if not isinstance(names, (list, tuple)) or not all(
        isinstance(name, (str, int)) for name in names
    ):
        return {}
    return {"CLASSES": list(map(str, names))}


def _view(name: str, value: Any, source: str) -> _View:
    """An ordinary tensor inside its storage; one that is larger than its data would
    multiply in memory.
    """
    if name.startswith("<") or not isinstance(value, _View):
        raise UserError(
            f"{source} holds {_kind(value)} under the key {name[:80]!r}, expected only tensors by name"
        )
    storage, offset, shape, strides = value
    if (
        not isinstance(storage, _Storage)
        or len(shape) > 8
        or not all(map(_is_size, (offset, *shape, *strides)))
    ):
        raise ValueError(f"{name[:80]!r} has no sensible shape")
    numel = math.prod(shape)
    last = offset + sum(
        (length - 1) * stride for length, stride in zip(shape, strides, strict=True)
    )
    if numel > storage.numel or (numel > 0 and last >= storage.numel):
        raise UserError(
            f"{source} stores {name[:80]!r} as a view larger than its data: damaged or a trap, refused"
        )
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**62


def _kind(value: Any, *, inside: bool = True) -> str:
    """What a value is, in words."""
    if isinstance(value, dict) and value and inside:
        shown = [
            f"{key[:40]!r} ({_kind(item, inside=False)})"
            for key, item in list(value.items())[:4]
        ]
        return f"a dict of {', '.join(shown)}"
    if isinstance(value, _Named):
        return f"an object of {value.name.partition('.')[0]}"
    return (
        "a tensor"
        if isinstance(value, _View)
        else f"a value of type {type(value).__name__}"
    )
