"""From a configuration and a dataset to a trained checkpoint, resumable at any step."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import TrainConfig

if TYPE_CHECKING:
    from .run import Run, prepare
    from .start import train
    from .stop import Interrupted

__all__ = ["Interrupted", "Run", "TrainConfig", "prepare", "train"]

# Recipes need `TrainConfig` alone. The rest loads torch, which takes two seconds, so it
# waits until somebody asks for it.
_LATER = {"train": "start", "Run": "run", "prepare": "run", "Interrupted": "stop"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_LATER[name]}", __name__)
    value = getattr(module, name)
    globals()[name] = value
    return value
