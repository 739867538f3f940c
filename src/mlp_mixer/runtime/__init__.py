"""Engines that run a Mixer behind one call.

Each is compared with the plain module when it is made, before it may answer.
"""

from __future__ import annotations

from .engines import ENGINES, EngineFn, disagreement, engine, fastest, int8, why_not
from .onnx_graph import onnx_graph

__all__ = [
    "ENGINES",
    "EngineFn",
    "disagreement",
    "engine",
    "fastest",
    "int8",
    "onnx_graph",
    "why_not",
]
