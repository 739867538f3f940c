"""Weights as files: every lineage in and out, the native checkpoint between them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .catalog import list_models

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, save
    from .loading import load, read_weights

__all__ = ["Checkpoint", "list_models", "load", "read_weights", "save"]

# The names of published weights are known without torch; the rest loads torch, and only
# when it is used.
_LATER = {
    "Checkpoint": "checkpoint",
    "save": "checkpoint",
    "load": "loading",
    "read_weights": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value
