"""Mixers on the GPU: fused token mixing, and channel mixing in fp8.

`fuse(model)` and `fp8(model)` return the faster network; `why_not` and `why_not_fp8`
say in words what stands in the way. Triton is imported only when a block is fused, so
that this room can be imported where Triton is not installed.
"""

from __future__ import annotations

from ..choices import Kernels
from .float8 import fp8, why_not_fp8
from .network import available, fuse, why_not
from .selfcheck import self_check, with_kernels

__all__ = [
    "Kernels",
    "available",
    "fp8",
    "fuse",
    "self_check",
    "why_not",
    "why_not_fp8",
    "with_kernels",
]
