"""A walk over a pickle as data: what it describes, without importing or calling.

The subset of opcodes is what torch.save writes. Calls of the few functions that build
tensors become descriptions (`View`), calls of known harmless classes become stand-ins
(`Named`), and any other name ends the walk.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import torch

from ...errors import UserError

_MOST_STEPS = 1_000_000
"""Opcodes of one pickle, about a second.

A Mixer with its optimiser and an average takes some 50,000.
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
    # Dtypes as values, such as torch.float16.
    *map(str, _STORAGES.values()),
}

_MOST_CLASSES = 10**6
# Of torch's own quantisation, and of what lies around a quantised tensor.
_QUANTISED = re.compile(
    r"torch\.(qu?int\w+|per_(tensor|channel)\w*|QU?Int\w+Storage|_utils\._rebuild_qtensor"
    r"|ao\.(nn\.)?quant.*)|torchao\..*|bitsandbytes\..*"
)

_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
# How many values an opcode takes off the stack; others take all since the last mark.
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


class Named(NamedTuple):
    """Stands for a class or a function, and for what calling it would have given."""

    name: str


class Storage(NamedTuple):
    """Describes the memory of tensors that has not been read."""

    key: str
    dtype: torch.dtype
    numel: int


class View(NamedTuple):
    """Describes a tensor that has not been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Stack:
    """Holds a pickle's stack of values with its marks."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.marks: list[int] = []

    def push(self, value: Any) -> None:
        self.values.append(value)

    def mark(self) -> None:
        self.marks.append(len(self.values))

    def take(self, count: int | None) -> list[Any]:
        """Take that many values off, or all since the last mark."""
        start = self.marks.pop() if count is None else len(self.values) - count
        taken = self.values[start:]
        del self.values[start:]
        return taken


def walk(file: BinaryIO, source: str, storages: dict[str, Storage]) -> Any:
    """Return the value that a pickle describes.

    Args:
        file: The pickle; it is left behind its last byte.
        source: The file's path, for the errors.
        storages: Filled with the storages that tensors name, by their keys.

    Returns:
        Dicts, lists, tuples, numbers and text as they are, tensors as `View`, and a
        `Named` for everything else.

    Raises:
        UserError: It names a class or function that is not known to be harmless, or is
            endless.
        ValueError: It is damaged.
    """
    stack = _Stack()
    memo: dict[int, Any] = {}
    argument: Any
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step == _MOST_STEPS:
            raise UserError(
                f"{source} holds a pickle of over {_MOST_STEPS:,} steps: damaged or a "
                "trap, refused"
            )
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.mark()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack.values[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack.values[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.push(memo[argument])
            case name if name in _NEW:
                stack.push(_NEW[name]())
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "FROZENSET":
                stack.push(tuple(stack.take(_TAKES.get(opcode.name))))
            case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS":
                items = stack.take(_TAKES.get(opcode.name))
                _put(stack.values[-1], items)
            case "GLOBAL":
                stack.push(_named(argument.replace(" ", ".", 1), source))
            case "STACK_GLOBAL":
                stack.push(_named(".".join(stack.take(2)), source))
            case "REDUCE" | "NEWOBJ":
                maker, arguments = stack.take(2)
                stack.push(_made(maker, arguments))
            case "BUILD" | "POP":
                # BUILD's value is an object's state, which is not needed.
                stack.take(1)
            case "BINPERSID":
                (identity,) = stack.take(1)
                _, kind, key, _, numel = identity[:5]
                stack.push(_storage(kind, key, numel, storages))
            case _ if opcode.arg and not opcode.stack_before:
                # A number, text or bytes.
                stack.push(argument)
            case _:
                raise ValueError(f"torch.save writes no {opcode.name}")
    return stack.values.pop()


def is_size(value: Any) -> bool:
    """Tell whether a value can be an offset, a length or a stride.

    Args:
        value: Anything that a pickle describes.
    """
    return isinstance(value, int) and 0 <= value < 2**62


def _named(name: str, source: str) -> Named:
    """Return a known class or function; refuse all others, before they are used."""
    # The name of the module in pickles of Python 2's protocols.
    name = name.replace("__builtin__.", "builtins.", 1)
    if name in _KNOWN:
        return Named(name)
    if _QUANTISED.fullmatch(name):
        raise UserError(
            f"{source} holds quantised numbers ({name[:120]!r}), from which the weights "
            "do not come back; save the state_dict of the network before it is quantised"
        )
    if name.startswith("torch._utils._rebuild_"):
        raise UserError(
            f"{source} holds a sparse, quantised, empty or unusual tensor "
            f"({name[:120]!r}); save plain ones"
        )
    raise UserError(
        f"{source} asks to run {name[:120]!r}, which is neither a tensor nor a known "
        "harmless record: refused, nothing was run; save only `model.state_dict()` "
        "where it was made"
    )


def _made(maker: Named, arguments: Any) -> Any:
    """Return what calling `maker` would give, as far as it matters here."""
    if maker.name in _TENSORS:
        # The seventh argument tells of numbers stored negated: no plain tensor.
        if any(arguments[6:7]):
            return maker
        return View(*arguments[:4])
    if maker.name in _PARAMETERS:
        return arguments[0]
    if maker.name in _READ_AS_DICT:
        return arguments[0] if arguments and isinstance(arguments[0], dict) else {}
    return maker


def _storage(
    kind: Named, key: Any, numel: Any, storages: dict[str, Storage]
) -> Storage:
    if not isinstance(key, str) or not is_size(numel):
        raise ValueError("a storage has no sensible name or length")
    storage = Storage(key, _STORAGES[kind.name], numel)
    if storages.setdefault(key, storage) != storage:
        raise ValueError(f"the storage {key[:80]!r} is described in two ways")
    return storage


def _put(target: Any, items: list[Any]) -> None:
    """Put values into a list or a dict; a stand-in swallows them."""
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only text is hashed: the hash of a nested tuple may take for ever, and
            # such a key names no tensor.
            target[_as_text(key, value)] = value


def _as_text(key: Any, value: Any) -> str:
    if isinstance(key, str):
        return key
    # Names of classes by number, such as {0: "cat"}.
    if type(key) is int and isinstance(value, str) and 0 <= key < _MOST_CLASSES:
        return f"<{key}>"
    return f"<{type(key).__name__}>"
