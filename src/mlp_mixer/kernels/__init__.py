"""Mixers on the GPU: token mixing fused, `fuse(model)`; channel mixing in `fp8(model)`;
and why not, in words.
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
