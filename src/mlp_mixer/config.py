"""Frozen dataclass <-> dict <-> `a.b=c`, strictly typed: an unknown key is an error
that names the near misses.

Understood annotations: bool, int, float, str, Literal, `X | None`, tuple, and dict
    (passed
through) and nested dataclasses. No I/O.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import UserError, unknown

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain dictionaries, lists and scalars, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(
    kind: type[Config], values: Mapping[str, Any], *, where: str = ""
) -> Config:
    """Build the dataclass `kind` from a mapping; absent keys keep their defaults,
    unknown ones are a `UserError`.
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
            raise unknown(
                "field", _join(where, key), [_join(where, name) for name in hints]
            )
        arguments[key] = _convert(value, hints[key], _join(where, key))
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(
            f"{where or kind.__name__.lstrip('_')} lacks the fields {', '.join(missing)}"
        )
    return kind(**arguments)


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Apply `a.b=c` assignments to a (nested, frozen) dataclass and return the new
    value.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator or not path.strip():
            raise UserError(
                f"cannot read the setting {assignment!r}: expected FIELD=VALUE, such as train.epochs=2"
            )
        config = _assign(
            config, path.strip().split("."), text.strip(), path.strip(), _leaves(config)
        )
    return config


def _assign(
    config: Any, keys: list[str], text: str, path: str, everywhere: list[str]
) -> Any:
    key = keys[0]
    rest = keys[1:]
    hints = get_type_hints(type(config))
    if key not in hints:
        prefix = path[: len(path) - len(".".join(keys))]
        known = [prefix + name for name in (*hints, *_leaves(config))]
        same_leaf = [name for name in everywhere if name.rpartition(".")[2] == keys[-1]]
        raise unknown("field", path, same_leaf or known)
    current = getattr(config, key)
    if dataclasses.is_dataclass(current):
        if not rest:
            fields = ", ".join(
                f"{path}.{field.name}" for field in dataclasses.fields(current)
            )
            raise UserError(f"{path!r} is a group of fields, not one; set {fields}")
        return dataclasses.replace(
            config, **{key: _assign(current, rest, text, path, everywhere)}
        )
    if rest:
        raise UserError(
            f"{path!r} does not exist: {path[: -len('.'.join(rest)) - 1]!r} is a single value"
        )
    return dataclasses.replace(
        config, **{key: _convert(_parse(text, hints[key]), hints[key], path)}
    )


def _leaves(config: Any) -> list[str]:
    """Dotted names of all single values, so that a near miss is found at any depth."""
    names: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = _leaves(value) if dataclasses.is_dataclass(value) else None
        names += (
            [f"{field.name}.{name}" for name in inner]
            if inner is not None
            else [field.name]
        )
    return names


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _parse(text: str, hint: Any = None) -> Any:
    """A word that the hint knows as it is; else JSON, `none` and `a,b` for people; else
    the bare string.
    """
    if get_origin(hint) is Literal and text in get_args(hint):
        return text
    if hint is str and not text.startswith('"'):
        return text
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [_parse(part) for part in text.split(",")] if "," in text else text


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check `value` against the annotation, turning lists into tuples and mappings into
    dataclasses.
    """
    converted = _matching(value, hint, where)
    if converted is _NO_MATCH:
        raise UserError(f"{where}: expected {_describe(hint)}, got {value!r}")
    return converted


_NO_MATCH = object()


def _matching(value: Any, hint: Any, where: str) -> Any:
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        matches = (_matching(value, choice, where) for choice in arguments)
        return next((match for match in matches if match is not _NO_MATCH), _NO_MATCH)
    if origin is Literal:
        if (
            isinstance(value, str)
            and value not in arguments
            and all(isinstance(choice, str) for choice in arguments)
        ):
            raise UserError(f"{where}: {unknown('value', value, arguments)}")
        return value if value in arguments else _NO_MATCH
    if origin is tuple:
        return _matching_tuple(value, arguments, where)
    if origin is dict:
        return dict(value) if isinstance(value, Mapping) else _NO_MATCH
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            return _NO_MATCH
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    if (
        hint is float
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ):
        return float(value) if math.isfinite(value) else _NO_MATCH
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a path or a name that happens to read as a number
    if hint is type(None):
        return None if value is None else _NO_MATCH
    return value if type(value) is hint else _NO_MATCH


def _matching_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    of_any_length = len(arguments) == 2 and arguments[1] is Ellipsis
    if of_any_length and not isinstance(value, (list, tuple)):
        value = (value,)  # one number where several may stand
    if not isinstance(value, (list, tuple)):
        return _NO_MATCH
    if of_any_length:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        return _NO_MATCH
    converted = tuple(
        _matching(item, hint, where)
        for item, hint in zip(value, arguments, strict=True)
    )
    return _NO_MATCH if _NO_MATCH in converted else converted


def _describe(hint: Any) -> str:
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
