"""Constructors that people know from other projects, and scikit-learn's interface.

Arguments, tensor names and numbers are those of the originals.
"""

from . import lavish619, lucidrains, timm_models

__all__ = ["lavish619", "lucidrains", "timm_models"]
