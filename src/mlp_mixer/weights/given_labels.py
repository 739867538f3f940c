"""Names of classes that a person gives for weights: a file, a list, or `a,b,c`."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import UserError
from ..untrusted.sizes import read_bytes
from ..untrusted.text import parse_json
from .formats.class_names import class_names, names_of

GivenLabels: TypeAlias = (
    "str | os.PathLike[str] | Sequence[str] | Mapping[str, int] | Mapping[int, str]"
)
"""The path of a file, names with commas between them, a list, names by number, or
numbers by name (`class_to_idx` of torchvision's ImageFolder)."""

GIVEN = {"labels": "given when the weights were loaded"}
"""What a provenance says of such names."""

_MOST_BYTES = 2**24
# Of no more digits than a number of classes has: Python refuses thousands of them.
_NUMBERED = re.compile(r"(\d{1,9})[\s,:;]+(.+)")
_ENDINGS_OF_FILES = (".txt", ".json", ".csv", ".tsv", ".names", ".yaml", ".yml", ".pkl")


def named_classes(given: GivenLabels, classes: int) -> tuple[str, ...]:
    """Return the names of all classes, in the order of the logits.

    A file has one name a line, perhaps after the number of its class ("0 cat"), or is
    JSON: a list, names by number, numbers by name, or a dict that holds one of them as
    `id2label`, `class_to_idx`, `classes`, ...

    Args:
        given: The names.
        classes: How many the network has.

    Raises:
        UserError: The file cannot be read, or there are not as many names as classes.
    """
    names, source = _read(given)
    if len(names) != classes:
        advice = "one for each class, in the order of the logits"
        # A mistyped path reads as the name of a single class.
        if len(names) == 1 and isinstance(given, str):
            advice += f", or the path of a file (there is none at {given!r})"
        raise UserError(
            f"{source} {_count(len(names), 'name')} for {_count(classes, 'class')}: "
            f"expected {advice}"
        )
    empty = [number for number, name in enumerate(names) if not name.strip()]
    if empty:
        raise UserError(
            f"{source} an empty name for class {empty[0]} (counted from 0); fill it in"
        )
    return tuple(names)


def checked_labels(labels: Any) -> tuple[str, ...]:
    """Return a list of names as text.

    Args:
        labels: Text, or whole numbers, also those of NumPy.

    Raises:
        UserError: It is no list, or a name is something else.
    """
    if not isinstance(labels, Iterable):
        raise UserError(
            f"the labels are {reprlib.repr(labels)}: expected a list of names, one for "
            "each class"
        )
    names = list(labels)
    for label in names:
        is_number = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
        if not (isinstance(label, str) or is_number):
            raise UserError(
                f"a label is {reprlib.repr(label)}: expected the name of a class"
            )
    return tuple(map(str, names))


def _read(given: GivenLabels) -> tuple[Sequence[str], str]:
    """Return the names, and the beginning of a sentence about them."""
    if isinstance(given, Mapping):
        # NumPy's numbers are no int; class_to_idx may hold them.
        plain = {_plain(key): _plain(value) for key, value in given.items()}
        return _known(names_of(plain) or class_names(plain), "the labels"), (
            "the labels have"
        )
    if not isinstance(given, (str, os.PathLike)):
        return checked_labels(given), "the labels have"
    # os.path asks: it never raises, whatever a name contains.
    if os.path.isfile(given):  # noqa: PTH113
        path = Path(given)
        return _of_file(path), f"{str(path)!r} has"
    text = os.fspath(given)
    is_path = not isinstance(given, str) or text.lower().endswith(_ENDINGS_OF_FILES)
    if is_path:
        raise UserError(
            f"there is no file of labels at {text!r}; check the path, or write the names "
            "with commas between them"
        )
    return [name.strip() for name in text.split(",")], "the labels have"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _known(names: list[str] | None, source: str) -> list[str]:
    if names is None:
        raise UserError(
            f"{source} hold no names that can be read: expected a list, numbers by name "
            "or names by number, from 0 on without a gap"
        )
    return names


def _of_file(path: Path) -> Sequence[str]:
    try:
        text = read_bytes(path, _MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"cannot read the labels in {str(path)!r}: {error.strerror or error}; check "
            "its rights"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"the labels in {str(path)!r} are no UTF-8 text (byte {error.start}); save "
            "them as UTF-8"
        ) from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no file of labels: {error}") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        return _of_json(text, path)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    return _without_numbers(lines)


def _of_json(text: str, path: Path) -> Sequence[str]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is no JSON ({error}); give a list of names, or one name a "
            "line"
        ) from error
    return _known(names_of(value) or class_names(value), f"the labels in {str(path)!r}")


def _without_numbers(lines: Sequence[str]) -> Sequence[str]:
    """Return names without their numbers, where every line begins with its own."""
    parts = [_NUMBERED.fullmatch(line) for line in lines]
    own = [part is not None and int(part[1]) == i for i, part in enumerate(parts)]
    if not all(own):
        return lines
    return [part[2] for part in parts if part is not None]


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith('s') else 's'}"
