"""Recipes: functions that return a complete `TrainConfig`; the docstring states the claim, its cost and the command."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import unknown
from ..train.config import TrainConfig
from .digits import digits

__all__ = ["RECIPES", "get_recipe"]

RECIPES: dict[str, Callable[[], TrainConfig]] = {"digits": digits}


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe by name; `UserError` names the near misses."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
