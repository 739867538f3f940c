"""Tensors in nested dicts and lists, each under the path of its keys.

Training scripts wrap a state dict in any number of dicts, under keys of their own, and
keep other things beside it. Nothing is chosen here: every tensor gets the name that
leads to it, such as `state_dict.model.head.bias`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError
from .class_names import class_names
from .contents import check_number

_DEEPEST = 16
_LONGEST = 200  # letters of a tensor's name
_MOST_VISITS = 200_000

# What optimisers and schedules keep is as large as the weights and none of them: it is
# not even read. PyTorch numbers its parameters, so they could not be found by name.
_NOT_WEIGHTS = re.compile(
    r"(?i)(.*_)?(optim\w*|opt|opt_states?|schedulers?|lr_sched\w*|\w*scaler)"
)


@dataclass(frozen=True)
class Leaves:
    """Holds what hangs in a tree of dicts.

    Attributes:
        tensors: Every tensor by its path.
        others: What stands beside tensors and is none, by its path.
        class_names: What the dicts say of the classes: the last one counts.
        root: The path of the dict that holds all tensors, ending in a dot; empty if
            they are in several. The other paths begin there.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    class_names: dict[str, Any] = field(default_factory=dict)
    root: str = ""


def leaves(
    root: Mapping[Any, Any], is_tensor: Callable[[Any], bool], source: str
) -> Leaves:
    """Collect the tensors of nested dicts by the paths of their keys.

    Keys that are no text name no tensor, and what optimisers keep is passed over.

    Args:
        root: The outermost dict.
        is_tensor: Tells a tensor from everything else.
        source: The file, for the errors.

    Returns:
        The tensors in the order in which they stand there.

    Raises:
        UserError: There are more entries than any model has, or two tensors of one
            path.
    """
    found = Leaves()
    dicts: list[str] = []
    _collect(root, "", found, dicts, is_tensor, source, itertools.count(), ())
    if len(dicts) != 1:
        return found
    # With one dict of tensors, its path says nothing that would tell them apart.
    (path,) = dicts
    tensors = {name.removeprefix(path): value for name, value in found.tensors.items()}
    others = {name.removeprefix(path): value for name, value in found.others.items()}
    return Leaves(tensors, others, found.class_names, path)


def _collect(
    branch: Mapping[Any, Any],
    path: str,
    found: Leaves,
    dicts: list[str],
    is_tensor: Callable[[Any], bool],
    source: str,
    visits: Iterator[int],
    above: tuple[int, ...],
) -> None:
    # A dict that contains itself would be followed for ever; one that is shared by
    # many would be followed 2**depth times.
    if id(branch) in above or len(above) == _DEEPEST:
        return
    if next(visits) > _MOST_VISITS:
        check_number(source, _MOST_VISITS)
    if names := class_names(branch):
        found.class_names["CLASSES"] = names
    has_tensors = False
    others = {}
    for key, value in branch.items():
        if not _names_a_tensor(key):
            continue
        name = f"{path}{key}"
        # What callbacks remember goes by paths or settings, and names no weight.
        if path and (len(name) > _LONGEST or not key.isprintable()):
            continue
        if is_tensor(value):
            has_tensors = True
            _put(found.tensors, name, value, source)
        elif not isinstance(value, Mapping) and type(value) not in (list, tuple):
            others[name] = value
        elif not _NOT_WEIGHTS.fullmatch(key):
            deeper = (*above, id(branch))
            for inner, twigs in _dicts(name, value):
                _collect(twigs, inner, found, dicts, is_tensor, source, visits, deeper)
    if has_tensors:
        dicts.append(path)
        found.others.update(others)


def _names_a_tensor(key: Any) -> bool:
    # The walk over a pickle writes keys that are no text as "<int>".
    return isinstance(key, str) and not key.startswith("<")


def _dicts(name: str, value: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the dicts in a value, with the beginning of their entries' paths."""
    if isinstance(value, Mapping):
        yield f"{name}.", value
        return
    for number, item in enumerate(value[:100]):
        if isinstance(item, Mapping):
            yield f"{name}.{number}.", item


def _put(tensors: dict[str, Any], name: str, value: Any, source: str) -> None:
    if name in tensors:
        raise UserError(
            f"{source} holds two tensors at {name[:80]!r}: keep one of them, and save "
            "it again"
        )
    tensors[name] = value
    check_number(source, len(tensors))
