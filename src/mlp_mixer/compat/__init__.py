"""Constructors that people know from other projects: their arguments, their tensor
names, their numbers.
"""

from . import lavish619, lucidrains, timm_models

__all__ = ["lavish619", "lucidrains", "timm_models"]
