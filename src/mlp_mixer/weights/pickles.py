"""Files of torch.save, read without running anything from them.

The pickle is walked as data, opcode by opcode: no name in it is imported, nothing is called, and only text is hashed.
(`torch.load` dies of a deeply nested tuple as a key even with `weights_only`, and of 300 bytes it can think for ever.)
Tensors stay descriptions until the weights are found among them; then only those are read. What training scripts add
(`argparse.Namespace`, mmengine's histories, NumPy scalars, paths) is on a short list and read as nothing; every other
class or function is refused by name.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from .contents import Contents, check_claim, check_number, read_member

_MOST_STEPS = 1_000_000
"""Opcodes of one pickle, half a second; a Mixer with its optimiser and its average takes some 50,000."""

_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "net", "params")
"""Where training scripts keep the weights, in the order of preference: the average of the weights, as timm prefers."""

_STORAGES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_STRANGE_TENSORS = (
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_tensor_v3",
)
_DICTS = (
    "addict.addict.Dict",
    "collections.Counter",
    "collections.OrderedDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
)
_NOTHING = (
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    *map(str, _STORAGES.values()),
)
_KNOWN = {*_STORAGES, *_TENSORS, *_PARAMETERS, *_STRANGE_TENSORS, *_DICTS, *_NOTHING}


class _Named(NamedTuple):
    """A class, a function, or what calling it would have given."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


class _View(NamedTuple):
    """A tensor that has not been read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_zip(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], source: str, size: int) -> Contents:
    """A state dict, bare or wrapped; `UserError` names what is refused and why."""
    if any("/code/" in name for name in members):
        raise UserError(f"{source} is a TorchScript archive, which is code; save the state_dict() of its model")
    root = next((name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")), None)
    if root is None:
        raise UserError(f"{source} is a zip archive, but none that torch, NumPy or Keras wrote; give a file of weights")
    if f"{root}byteorder" in members and read_member(archive, members[f"{root}byteorder"]) != b"little":
        raise UserError(f"{source} was saved on a big-endian machine; save it again as safetensors there")
    loaded = _walk(io.BytesIO(read_member(archive, members[f"{root}data.pkl"])), source, {})
    return _contents(loaded, lambda storage: read_member(archive, members[f"{root}data/{storage.key}"]), source, size)


def read_legacy(file: BinaryIO, source: str, size: int) -> Contents:
    """As `read_zip`, for the format before torch 1.6: five pickles, then the numbers of each storage."""
    storages: dict[str, _Storage] = {}
    if _walk(file, source, {}) != torch.serialization.MAGIC_NUMBER:
        raise UserError(f"{source} is a pickle, but none of torch.save; save `model.state_dict()` with torch.save")
    _, _, loaded, keys = (_walk(file, source, storages) for _ in range(4))
    places: dict[str, int] = {}
    for key in keys:
        if int.from_bytes(file.read(8), "little") != storages[key].numel:
            raise ValueError(f"storage {key!r} is not as long as stated")
        places[key] = file.tell()
        file.seek(storages[key].nbytes, io.SEEK_CUR)

    def read(storage: _Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return _contents(loaded, read, source, size)


def _walk(file: BinaryIO, source: str, storages: dict[str, _Storage]) -> Any:
    """The value that a pickle describes; its storages by their keys."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def take(count: int | None = None) -> list[Any]:
        """The last values: so many, or all since the last mark."""
        start = marks.pop() if count is None else len(stack) - count
        taken = stack[start:]
        del stack[start:]
        return taken

    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step == _MOST_STEPS:
            raise UserError(f"{source} holds a pickle of over {_MOST_STEPS:,} steps: damaged or a trap, refused")
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "POP":
                take(1)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(take()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(take(int(opcode.name[-1]))))
            case "APPEND" | "SETITEM":
                items = take(1 if opcode.name == "APPEND" else 2)
                _put(stack[-1], items)
            case "APPENDS" | "SETITEMS" | "ADDITEMS":
                items = take()
                _put(stack[-1], items)
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".", 1), source))
            case "STACK_GLOBAL":
                stack.append(_named(".".join(take(2)), source))
            case "REDUCE" | "NEWOBJ":
                stack.append(_made(*take(2)))
            case "BUILD":
                take(1)  # the state of an object
            case "BINPERSID":
                stack.append(_storage(*take(1)[0][:5]))
                storages[stack[-1].key] = stack[-1]
            case _ if opcode.arg and not opcode.stack_before:
                stack.append(argument)  # a number or text
            case _:
                raise ValueError(f"torch.save does not write {opcode.name}")
    return stack.pop()


def _named(name: str, source: str) -> _Named:
    name = name.replace("__builtin__.", "builtins.", 1)
    if name not in _KNOWN:
        raise UserError(
            f"{source} asks to run {name[:120]!r}, which is neither a tensor nor a known harmless record: refused, "
            "nothing was run; save only `model.state_dict()` where it was made"
        )
    return _Named(name)


def _made(maker: _Named, arguments: Any) -> Any:
    """What calling `maker` would give, as far as it matters here."""
    if maker.name in _TENSORS:
        return _View(*arguments[:4])
    if maker.name in _PARAMETERS:
        return arguments[0]
    if maker.name in _DICTS:
        return arguments[0] if arguments and isinstance(arguments[0], dict) else {}
    return maker


def _storage(_: Any, kind: _Named, key: str, __: Any, numel: int) -> _Storage:
    if not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        raise ValueError("a storage has no sensible name or length")
    return _Storage(key, _STORAGES[kind.name], numel)


def _put(target: Any, items: list[Any]) -> None:
    """Into a list or a dict. Only text is hashed: a key of another type could take for ever, or be no key."""
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, str) else f"<{type(key).__name__}>"] = value


def _contents(loaded: Any, read: Callable[[_Storage], bytes], source: str, size: int) -> Contents:
    weights, meta, notes = _unwrap(loaded, source)
    views = {name: _checked(name, value, source) for name, value in weights.items()}
    check_number(source, len(views))
    check_claim(source, sum(math.prod(view.shape) * view.storage.dtype.itemsize for view in views.values()), size)
    flat: dict[_Storage, Tensor] = {}
    tensors = {}
    for name, (storage, offset, shape, strides) in views.items():
        if storage not in flat:
            flat[storage] = _numbers(read(storage), storage)
        tensors[name] = flat[storage].as_strided(shape, strides, offset)
    return Contents(tensors, "torch", meta, notes)


def _numbers(data: bytes, storage: _Storage) -> Tensor:
    if len(data) != storage.nbytes:
        raise ValueError(f"storage {storage.key[:80]!r} is not as long as stated")
    return torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


def _unwrap(loaded: Any, source: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The state dict inside the wrappers, the class names beside it, and a note of where it was."""
    meta: dict[str, Any] = {}
    keys: list[str] = []
    while isinstance(loaded, dict) and not any(isinstance(value, _View) for value in loaded.values()):
        meta |= _class_names(loaded.get("meta"))
        key = next((key for key in _WRAPPERS if isinstance(loaded.get(key), dict) and loaded[key]), None)
        if key is None or len(keys) == 8:
            break
        loaded = loaded[key]
        keys.append(key)
    if not isinstance(loaded, dict) or not any(isinstance(value, _View) for value in loaded.values()):
        kind = _kind(loaded) + (f" of {', '.join(key[:40] for key in list(loaded)[:6])}" if isinstance(loaded, dict) and loaded else "")
        raise UserError(f"{source} holds {kind}, expected tensors by name, as `model.state_dict()` gives")
    return loaded, meta, (f"weights taken from {'.'.join(keys)}",) if keys else ()


def _class_names(meta: Any) -> dict[str, Any]:
    """Of what mmpretrain writes beside the weights."""


def _checked(name: str, value: Any, source: str) -> _View:
    """A tensor inside its storage; one that is larger than its data would multiply in memory."""
