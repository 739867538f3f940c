"""Fused token mixing on the GPU: `fuse(model)`, and `why_not(model)` where that cannot be."""

from __future__ import annotations

from .network import available, fuse, why_not

__all__ = ["available", "fuse", "why_not"]
