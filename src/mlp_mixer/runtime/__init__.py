"""Engines that run a Mixer behind one call.

Each is compared with the plain module when it is made, before it may answer; ways that
are not exact are compared on the user's own images, within the user's tolerance.
"""

from __future__ import annotations

from .choice import Engine, EngineOnce, engine
from .engines import (
    ENGINES,
    TOLERANCE,
    EngineFn,
    checked,
    disagreement,
    int8,
    why_not,
)
from .onnx_graph import onnx_graph
from .trial import Chosen, fastest
from .ways import FAST_TOLERANCE, Way, admitted_tolerance

__all__ = [
    "ENGINES",
    "FAST_TOLERANCE",
    "TOLERANCE",
    "Chosen",
    "Engine",
    "EngineFn",
    "EngineOnce",
    "Way",
    "admitted_tolerance",
    "checked",
    "disagreement",
    "engine",
    "fastest",
    "int8",
    "onnx_graph",
    "why_not",
]
