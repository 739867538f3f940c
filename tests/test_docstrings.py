"""Public names are documented in Google's style: every argument, the result, the errors."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest

import mlp_mixer

ROOMS = [
    room.name
    for room in pkgutil.iter_modules(mlp_mixer.__path__, "mlp_mixer.")
    if room.ispkg and room.name != "mlp_mixer.cli"
]


def public_names() -> Iterator[tuple[str, Any]]:
    """Every function and class that the package or a room exports."""
    seen = set()
    for module in ("mlp_mixer", *ROOMS):
        loaded = importlib.import_module(module)
        for name in getattr(loaded, "__all__", ()):
            value = getattr(loaded, name)
            if not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            if value.__module__.startswith("mlp_mixer") and value not in seen:
                seen.add(value)
                yield f"{value.__module__}.{name}", value


NAMES = dict(public_names())
FUNCTIONS = {name: value for name, value in NAMES.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in NAMES.items() if inspect.isclass(value)}


def section(docstring: str, title: str) -> str:
    """The indented text below a title such as "Args:"; "" without such a title."""
    found = re.search(
        rf"^{title}:\n((?:[ ]{{4}}.*\n|\n)*)", docstring + "\n", flags=re.M
    )
    return found[1] if found else ""


def arguments(function: Callable[..., Any]) -> list[str]:
    """The names of a function's arguments."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def is_named(argument: str, text: str) -> bool:
    """Whether a line of a section begins with the argument (or several with commas)."""
    return bool(
        re.search(
            rf"^    (?:[*\w]+, )*\*{{0,2}}{argument}(?:, [*\w]+)*(?: \(.*?\))?: ",
            text,
            flags=re.M,
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_is_a_sentence(name: str) -> None:
    docstring = inspect.getdoc(NAMES[name]) or ""
    first, _, rest = docstring.partition("\n")
    assert first.endswith((".", "?")), first
    assert first[0].isupper(), first
    assert not rest or rest.startswith("\n"), "a blank line follows the first line"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described(name: str) -> None:
    function = FUNCTIONS[name]
    text = section(inspect.getdoc(function) or "", "Args")
    missing = [
        argument for argument in arguments(function) if not is_named(argument, text)
    ]
    assert not missing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_and_errors_are_described(name: str) -> None:
    function = FUNCTIONS[name]
    docstring = inspect.getdoc(function) or ""
    source = inspect.getsource(function)
    if inspect.signature(function).return_annotation not in (None, "None"):
        described = section(docstring, "Returns") or section(docstring, "Yields")
        # A first line "Return ..." describes a plain result.
        assert described or docstring.startswith(("Return", "Yield")), "Returns:"
    if "raise UserError" in source or "raise unknown" in source:
        assert "UserError" in section(docstring, "Raises"), "Raises:"


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_a_record_is_described(name: str) -> None:
    kind = CLASSES[name]
    if not is_dataclass(kind):
        return
    docstring = inspect.getdoc(kind) or ""
    text = section(docstring, "Attributes") + section(docstring, "Args")
    source = inspect.getsource(kind)
    for field in kind.__annotations__:
        if field.startswith("_") or is_named(field, text):
            continue
        # A comment on the field's line, or above it, describes it as well.
        assert re.search(rf"(?:#[^\n]*\n\s+{field}: )|(?:{field}: [^\n]*#)", source), (
            field
        )
