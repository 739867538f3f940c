"""Mixers on the GPU: fused token mixing, channel mixing in fp8, tokens outermost.

`fuse(model)`, `fp8(model)` and `TokensFirst(model)` return the faster network; the
functions `why_not` say in words what stands in the way, and `for_inference` chooses.
Triton is imported only when a block is fused, so that this room can be imported where
Triton is not installed.
"""

from __future__ import annotations

from ..choices import Kernels
from .float8 import fp8, why_not_fp8
from .inference import for_inference
from .network import available, fuse, why_not
from .selfcheck import self_check, with_kernels
from .tokens_first import TokensFirst, why_not_tokens_first

__all__ = [
    "Kernels",
    "TokensFirst",
    "available",
    "for_inference",
    "fp8",
    "fuse",
    "self_check",
    "why_not",
    "why_not_fp8",
    "why_not_tokens_first",
    "with_kernels",
]
