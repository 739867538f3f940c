"""Convert between frozen dataclasses, dictionaries and `a.b=c`, strictly typed.

An unknown key is an error that names the near misses. The annotations understood are
bool, int, float, str, Literal, `X | None`, tuple, dict (passed through) and nested
dataclasses. Nothing is read or written here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import UserError, unknown, without_secrets

Config = TypeVar("Config")

_NO_MATCH = object()  # a value that no annotation has, unlike None


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain dictionaries, lists and scalars, ready for JSON.

    Args:
        config: An instance of a dataclass, which may hold others.
    """
    # The way through JSON turns tuples into lists, as a file of it would.
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def plain_numbers(value: Any) -> Any:
    """Return numbers of NumPy or torch as Python's, and short arrays of them as tuples.

    Args:
        value: Anything; what is no such number is returned as it is.
    """
    # A text of NumPy has an item too.
    dimensions = getattr(value, "ndim", None)
    if dimensions == 0 and hasattr(value, "item"):
        return value.item()
    if dimensions == 1 and hasattr(value, "tolist"):
        return tuple(value.tolist())
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain_numbers, value))
    return value


def recorded(value: Any) -> Any:
    """Return JSON values as they are recorded: addresses have no keys.

    Args:
        value: Text, numbers, None, and lists and dictionaries of such.
    """
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {key: recorded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [recorded(part) for part in value]
    return value


def json_values(value: Any, where: str) -> Any:
    """Return a value with what JSON has no word for in its words.

    Args:
        value: Numbers, text, None, and lists and dictionaries of such. Numbers and
            arrays of NumPy and torch become numbers and lists, paths text.
        where: What the value is, for the error.

    Raises:
        UserError: It holds something else.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {
            str(key): json_values(part, f"{where}[{key!r}]")
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_values(part, where) for part in value]
    # NumPy's and torch's numbers and arrays, without importing either.
    if hasattr(value, "tolist"):
        return json_values(value.tolist(), where)
    raise UserError(
        f"{where} is a {type(value).__name__}: expected numbers, text, lists or "
        "dictionaries, which JSON can hold"
    )


def from_dict(
    kind: type[Config], values: Mapping[str, Any], *, where: str = ""
) -> Config:
    """Build a dataclass from a mapping; absent keys keep their defaults.

    Args:
        kind: The dataclass.
        values: Its fields by name; a group of fields is a mapping.
        where: The path of the group in the whole, for errors.

    Returns:
        An instance of `kind`.

    Raises:
        UserError: A field is unknown, missing, or has a value of another type.
    """
    assert dataclasses.is_dataclass(kind)
    if not isinstance(values, Mapping):
        raise UserError(
            f"{where or kind.__name__}: expected a group of fields, got {values!r}"
        )
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            known = [_join(where, name) for name in hints]
            raise unknown("field", _join(where, key), known)
        arguments[key] = _convert(value, hints[key], _join(where, key))
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in arguments and _has_no_default(field)
    ]
    if missing:
        group = where or kind.__name__.lstrip("_")
        raise UserError(f"{group} lacks the fields {', '.join(missing)}")
    return kind(**arguments)


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Apply `a.b=c` assignments to a nested, frozen dataclass.

    Args:
        config: The dataclass; it is not changed.
        assignments: Such as "train.epochs=2", applied in order. A value is read as the
            field's type: text as it stands, else JSON, `none`, or `a,b` for a tuple.

    Returns:
        The new value.

    Raises:
        UserError: An assignment cannot be read, or its field or value does not fit.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        path = path.strip()
        if not separator or not path:
            raise UserError(
                f"cannot read the setting {assignment!r}: expected FIELD=VALUE, such as "
                "train.epochs=2"
            )
        everywhere = _leaves(config)
        config = _assign(config, path.split("."), text.strip(), path, everywhere)
    return config


def check_bounds(
    name: str,
    value: float | None,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """Check that a value is None or keeps all bounds that are given.

    Args:
        name: Of the field.
        value: Its value.
        above: It must be larger than this.
        least: It must not be smaller.
        below: It must be smaller.
        most: It must not be larger.

    Raises:
        UserError: It does not keep one of them.
    """
    if value is None:
        return
    bounds = (
        ("above", above, operator.gt),
        ("at least", least, operator.ge),
        ("below", below, operator.lt),
        ("at most", most, operator.le),
    )
    wanted = []
    kept = True
    for word, limit, holds in bounds:
        if limit is not None:
            wanted.append(f"{word} {limit:g}")
            kept = kept and holds(value, limit)
    if not kept:
        raise UserError(f"{name} must be {' and '.join(wanted)}, got {value}")


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return (
        field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )


def _assign(
    config: Any, keys: list[str], text: str, path: str, everywhere: list[str]
) -> Any:
    """Replace the field that `keys` lead to, in this group or in one inside it."""
    key, *rest = keys
    hints = get_type_hints(type(config))
    if key not in hints:
        raise _unknown_field(config, keys, path, everywhere)
    current = getattr(config, key)
    if dataclasses.is_dataclass(current):
        if not rest:
            names = [f"{path}.{field.name}" for field in dataclasses.fields(current)]
            raise UserError(
                f"{path!r} is a group of fields, not one; set {', '.join(names)}"
            )
        value = _assign(current, rest, text, path, everywhere)
        return dataclasses.replace(config, **{key: value})
    if rest:
        parent = path.removesuffix("." + ".".join(rest))
        raise UserError(f"{path!r} does not exist: {parent!r} is a single value")
    value = _convert(_parse(text, hints[key]), hints[key], path)
    return dataclasses.replace(config, **{key: value})


def _unknown_field(
    config: Any, keys: list[str], path: str, everywhere: list[str]
) -> UserError:
    """Prefer fields of the same last name in any group: `lr` means `optim.lr`."""
    same_leaf = [name for name in everywhere if name.rpartition(".")[2] == keys[-1]]
    if same_leaf:
        return unknown("field", path, same_leaf)
    prefix = path.removesuffix(".".join(keys))
    names = [*get_type_hints(type(config)), *_leaves(config)]
    return unknown("field", path, [prefix + name for name in names])


def _leaves(config: Any) -> list[str]:
    """Return the dotted names of all single values, so that any depth is searched."""
    names: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += [f"{field.name}.{name}" for name in _leaves(value)]
        else:
            names.append(field.name)
    return names


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _parse(text: str, hint: Any = None) -> Any:
    """Read the text of a value as its annotation wants it."""
    choices = (
        get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    )
    if any(
        get_origin(choice) is Literal and text in get_args(choice) for choice in choices
    ):
        return text
    empty = text.lower() in ("none", "null")
    # A path may hold commas and may look like a number: text is taken as it stands,
    # except JSON's quotes and, where the field may be empty, the word for it.
    if str in choices and not text.startswith('"'):
        return None if empty and type(None) in choices else text
    if empty:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text)
    # ValueError: JSON of its own kind, or Python's, of thousands of digits.
    except (ValueError, RecursionError):
        return [_parse(part) for part in text.split(",")] if "," in text else text


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check a value against its annotation; lists become tuples, mappings groups."""
    converted = _matching(plain_numbers(value), hint, where)
    if converted is _NO_MATCH:
        raise UserError(f"{where}: expected {_describe(hint)}, got {value!r}")
    return converted


def _matching(value: Any, hint: Any, where: str) -> Any:
    """Return the value as the annotation wants it, or `_NO_MATCH`."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        return _matching_union(value, arguments, where)
    if origin is Literal:
        return _matching_literal(value, arguments, where)
    if origin is tuple:
        return _matching_tuple(value, arguments, where)
    if origin is dict:
        return dict(value) if isinstance(value, Mapping) else _NO_MATCH
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            return _NO_MATCH
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    return _matching_scalar(value, hint)


def _matching_union(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:
        match = _matching(value, choice, where)
        if match is not _NO_MATCH:
            return match
    return _NO_MATCH


def _matching_literal(value: Any, words: tuple[Any, ...], where: str) -> Any:
    if value in words:
        return value
    # A wrong word among words gets the near misses instead of the whole list.
    if isinstance(value, str) and all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: {unknown('value', value, words)}")
    return _NO_MATCH


def _matching_tuple(value: Any, items: tuple[Any, ...], where: str) -> Any:
    of_any_length = len(items) == 2 and items[1] is Ellipsis
    if of_any_length and not isinstance(value, (list, tuple)):
        value = (value,)  # one number where several may stand
    if not isinstance(value, (list, tuple)):
        return _NO_MATCH
    if of_any_length:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        return _NO_MATCH
    pairs = zip(value, items, strict=True)
    converted = tuple(_matching(item, hint, where) for item, hint in pairs)
    return _NO_MATCH if _NO_MATCH in converted else converted


def _matching_scalar(value: Any, hint: Any) -> Any:
    # True is an int in Python, but nobody means 1 by it.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return _finite(value)
    if hint is str and is_number:
        return str(value)  # a path or a name that happens to read as a number
    if hint is type(None):
        return None if value is None else _NO_MATCH
    return value if type(value) is hint else _NO_MATCH


def _finite(value: float) -> Any:
    """Return a number as a float, or `_NO_MATCH` for one that no finite float is."""
    try:
        number = float(value)
    # An integer of JSON may have any number of digits.
    except OverflowError:
        return _NO_MATCH
    return number if math.isfinite(number) else _NO_MATCH


def _describe(hint: Any) -> str:
    """Name a type in the words of an error."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in arguments)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is tuple:
        return "a list of " + ", ".join(
            "..." if choice is Ellipsis else _describe(choice) for choice in arguments
        )
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "none",
    }
    return names.get(hint, getattr(hint, "__name__", str(hint)))
