"""From a configuration and a data set to a trained checkpoint, resumable at any step."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import TrainConfig

if TYPE_CHECKING:
    from .loop import train
    from .run import Run, prepare
    from .stop import Interrupted

__all__ = ["Interrupted", "Run", "TrainConfig", "prepare", "train"]

# Recipes need `TrainConfig` alone; the rest loads torch, so it waits until it is used.
_LATER = {"train": "loop", "Run": "run", "prepare": "run", "Interrupted": "stop"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = value
    return value
