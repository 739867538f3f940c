"""Read the pickled batches of CIFAR as data: nothing that a file names is called.

`pickle.load` runs whatever the file asks for. To allow NumPy's own constructors and
nothing else is not enough: a file can state a dtype of object pointers, and NumPy then
takes the file's bytes for addresses in memory. So the opcodes are walked one by one, and
an array stays a description until its type and size have been checked.
`weights/formats/torch_pickle.py` does the same for tensors.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .official_files import read_file

IntegerArray = np.ndarray[Any, np.dtype[np.integer[Any]]]

# CIFAR-100's training file, written in the wordiest protocol, takes some 700,000 steps.
# So many steps take about two seconds.
_MOST_STEPS = 2_000_000

# A key is hashed and decoded, and the memo can repeat it in every step.
_MOST_LETTERS = 100

_INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")

_ENCODE = "_codecs.encode"
_BYTES = "builtins.bytes"
_NDARRAY = "numpy.ndarray"
_DTYPE = "numpy.dtype"
_RECONSTRUCT = "numpy.core.multiarray._reconstruct"
_KNOWN = (_ENCODE, _BYTES, _NDARRAY, _DTYPE, _RECONSTRUCT)

# Opcodes whose argument is the value: a number, text or bytes.
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
# What Python 2's `repr` writes: ASCII, and a few escapes. The codec "unicode_escape" reads
# more, and warns of some.
_REPR = re.compile(rb"""(?:[ -\[\]-~]++|\\[\\'"ntr]|\\x[0-9a-f]{2})*""")

_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Named:
    """A class or function that the file names."""

    name: str


@dataclass
class _Dtype:
    """What a file says of a dtype; its byte order comes later than its code."""

    code: str
    order: str | None = None


@dataclass
class _Array:
    """What a file says of an array; all of it comes later than the array itself."""

    shape: tuple[int, ...] = ()
    dtype: _Dtype | None = None
    data: str | bytes | None = None


def read_arrays(path: Path, names: Sequence[str]) -> list[IntegerArray]:
    """Return some entries of a pickled dict as arrays of integers.

    Args:
        path: A pickle of protocol 0 to 4, written by Python 2 or 3, with NumPy 1 or 2.
        names: The keys of the entries; each is a list of integers or an array.

    Raises:
        UserError: The file cannot be read, is no such pickle, or asks for anything else
            than plain data.
    """
    data = read_file(path)
    try:
        loaded = _walk(data)
        if not isinstance(loaded, dict):
            raise ValueError(f"it holds a {type(loaded).__name__} instead of a dict")
        if missing := [name for name in names if name not in loaded]:
            raise ValueError(f"it has no {missing[0]!r}")
        return [_to_numpy(loaded[name], name) for name in names]
    except (
        # A garbled pickle fails in as many ways as it has opcodes.
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        reason = " ".join(str(error).split())[:200] or "it is garbled"
        raise UserError(
            f"cannot read {str(path)!r}: {reason}; download it again from its official "
            "page"
        ) from error


def _walk(data: bytes | bytearray) -> Any:
    """Return the value that a pickle describes."""
    machine = _Machine()
    for step, (name, argument) in enumerate(_opcodes(data)):
        if step == _MOST_STEPS:
            raise ValueError(f"it takes over {_MOST_STEPS} steps")
        machine.do(name, argument)
    return machine.stack.pop()


def _opcodes(data: bytes | bytearray) -> Iterator[tuple[str, Any]]:
    """Read the opcodes of a pickle up to STOP, each with its argument.

    `pickletools.genops` does the same, but stumbles over the text of protocol 0 where
    Python 2 wrote pixels as text.
    """
    file = io.BytesIO(data)
    while True:
        byte = file.read(1)
        opcode = _OPCODES.get(byte.decode("latin-1"))
        if opcode is None:
            raise ValueError("it is cut short" if not byte else "it is garbled")
        if opcode.name == "STOP":
            return
        if opcode.name == "STRING":
            yield opcode.name, _quoted(file.readline())
        elif opcode.arg is not None:
            yield opcode.name, opcode.arg.reader(file)
        else:
            yield opcode.name, None


def _quoted(line: bytes) -> str:
    """Return the text of Python 2's `repr`, one character for each byte."""
    text = line.rstrip(b"\r\n")
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise ValueError("a text has no quotes around it")
    inside = text[1:-1]
    if not _REPR.fullmatch(inside):
        raise ValueError("a text has an escape that is none")
    return inside.decode("unicode_escape")


class _Machine:
    """Pickle's stack machine, for opcodes that describe plain data.

    Text of Python 2, bytes and `_codecs.encode(text, "latin1")` are three spellings of
    the same: one character for each byte.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Carry out one opcode; a ValueError names one that no data needs."""
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in _LITERALS:
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "MARK":
                self._marks.append(len(self.stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._take(_TUPLE_LENGTHS[name])))
            case "TUPLE":
                push(tuple(self._take_to_mark()))
            case "EMPTY_LIST":
                push([])
            case "LIST":
                push(self._take_to_mark())
            case "APPEND":
                _extend(self._take(1), self.stack[-1])
            case "APPENDS":
                _extend(self._take_to_mark(), self.stack[-1])
            case "EMPTY_DICT":
                push({})
            case "DICT":
                entries: dict[str, Any] = {}
                _update(self._take_to_mark(), entries)
                push(entries)
            case "SETITEM":
                _update(self._take(2), self.stack[-1])
            case "SETITEMS":
                _update(self._take_to_mark(), self.stack[-1])
            case "GLOBAL":
                push(_named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, attribute = self._take(2)
                push(_named(f"{_short(module)}.{_short(attribute)}"))
            case "REDUCE":
                function, arguments = self._take(2)
                push(_described(function, arguments))
            case "BUILD":
                (state,) = self._take(1)
                _set_state(self.stack[-1], state)
            case _:
                raise ValueError(f"it has a {name}, which no dataset needs")

    def _take(self, count: int) -> list[Any]:
        """Take the uppermost values off the stack."""
        start = len(self.stack) - count
        if start < 0:
            raise ValueError("it is garbled")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _take_to_mark(self) -> list[Any]:
        """Take all values above the last mark off the stack."""
        start = self._marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken


def _extend(items: list[Any], target: Any) -> None:
    """Append items to a list."""
    if not isinstance(target, list):
        raise ValueError("it appends to something else than a list")
    target.extend(items)


def _update(items: list[Any], target: Any) -> None:
    """Put keys and values, in turns, into a dict."""
    if not isinstance(target, dict):
        raise ValueError("it puts an entry into something else than a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only short text is hashed: the hash of a deeply nested tuple recurses until the
        # process dies.
        target[_short(key)] = value


def _short(value: Any) -> str:
    """Return a key or a name as text."""
    if not isinstance(value, str | bytes) or len(value) > _MOST_LETTERS:
        raise ValueError("it has a key or name that is no short text")
    return value if isinstance(value, str) else value.decode("latin-1")


def _named(name: str) -> _Named:
    """Return a known class or function; all others are refused by name."""
    # Python 3 and NumPy 2 renamed two modules.
    now = name.replace("__builtin__.", "builtins.", 1)
    now = now.replace("numpy._core.", "numpy.core.", 1)
    if now not in _KNOWN:
        raise ValueError(f"it asks for {name[:_MOST_LETTERS]}, which is not allowed")
    return _Named(now)


def _described(function: Any, arguments: Any) -> Any:
    """Return a description of what calling a function would give."""
    if not isinstance(function, _Named) or not isinstance(arguments, tuple):
        raise ValueError("it calls something that is no function")
    if function.name == _BYTES and not arguments:
        return b""
    # Python 3 writes bytes as encoded text in protocols 0 to 2. The text is kept as it
    # is: to encode it here would copy all pixels whenever the memo repeats the call.
    if function.name == _ENCODE:
        text, encoding = arguments
        if isinstance(text, str) and encoding in ("latin1", "latin-1"):
            return text
    if function.name == _RECONSTRUCT and arguments[0] == _Named(_NDARRAY):
        return _Array()
    if function.name == _DTYPE and _short(arguments[0]) in _INTEGERS:
        return _Dtype(_short(arguments[0]))
    raise ValueError(f"it calls {function.name} with other arguments than NumPy's own")


def _set_state(target: Any, state: Any) -> None:
    """Complete the description of a dtype or an array."""
    if not isinstance(state, tuple):
        raise ValueError("it has a state that is no tuple")
    if isinstance(target, _Dtype):
        # (version, byte order, sub-array, names, fields, size, alignment, flags)
        _, order, *rest = state
        plain = all(value is None or _is_whole(value, -1, 0) for value in rest)
        if not isinstance(order, str | bytes) or not plain:
            raise ValueError("its dtype is more than a plain integer")
        target.order = _short(order)
    elif isinstance(target, _Array):
        # (version, shape, dtype, column by column, bytes)
        _, shape, dtype, by_column, data = state
        fits = isinstance(shape, tuple) and len(shape) <= 2
        if not fits or not all(_is_whole(length, 0, 2**32) for length in shape):
            raise ValueError("its array has a shape that is none")
        if not isinstance(dtype, _Dtype) or not isinstance(data, str | bytes):
            raise ValueError("its array holds something else than integers")
        # Protocols 0 and 1 write False as 0.
        if by_column is not False and not _is_whole(by_column, 0, 0):
            raise ValueError("its array is stored column by column")
        target.shape = shape
        target.dtype = dtype
        target.data = data
    else:
        raise ValueError("it sets the state of something that has none")


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number in a range; True is none."""
    return type(value) is int and least <= value <= most


def _to_numpy(value: Any, name: str) -> IntegerArray:
    """Turn a list of integers, or the description of an array, into an array."""
    if isinstance(value, list):
        if not all(_is_whole(item, -(2**31), 2**31) for item in value):
            raise ValueError(f"its {name!r} are not all whole numbers")
        return np.array(value, dtype=np.int64)
    if not isinstance(value, _Array) or value.dtype is None or value.data is None:
        raise ValueError(f"its {name!r} is neither a list nor a complete array")
    if value.dtype.order not in ("|", "<", ">"):
        raise ValueError(f"its {name!r} has a dtype without a byte order")
    dtype = np.dtype(value.dtype.order + value.dtype.code)
    data = value.data
    raw = data if isinstance(data, bytes) else data.encode("latin-1")
    if len(raw) != math.prod(value.shape) * dtype.itemsize:
        raise ValueError(
            f"its {name!r} has {len(raw)} bytes for the shape {value.shape}"
        )
    return np.frombuffer(raw, dtype=dtype).reshape(value.shape)
