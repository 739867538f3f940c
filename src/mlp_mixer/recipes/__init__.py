"""Recipes: functions that return a complete `TrainConfig`; the docstring states the
claim, its cost and the command.
"""

# Our own recipes train with the exact GELU ("erf"), so that their weights load in timm
# and in most ports; those of the
# paper and of its authors keep their tanh approximation.

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from ..errors import unknown
from ..training.config import TrainConfig
from .cifar import (
    cifar10,
    cifar10_10min,
    cifar10_90_fast,
    cifar10_best,
    cifar10_hour,
    cifar100_best,
)
from .digits import digits
from .fashion_mnist import (
    fashion_mnist,
    fashion_mnist_10min,
    fashion_mnist_30min,
    fashion_mnist_best,
)
from .keras_example import keras_cifar100
from .paper import FINETUNING, PRETRAINING, bigvision_b16, deit_b16, gsam_b16, sam_b16
from .photos import photos

__all__ = ["RECIPES", "get_recipe", "list_recipes"]

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "fashion_mnist_10min": fashion_mnist_10min,
    "fashion_mnist_30min": fashion_mnist_30min,
    "fashion_mnist_best": fashion_mnist_best,
    "cifar10": cifar10,
    "cifar10_10min": cifar10_10min,
    "cifar10_hour": cifar10_hour,
    "cifar10_90_fast": cifar10_90_fast,
    "cifar10_best": cifar10_best,
    "cifar100_best": cifar100_best,
    "keras_cifar100": keras_cifar100,
    "photos": photos,
    **PRETRAINING,
    "bigvision_b16": bigvision_b16,
    "deit_b16": deit_b16,
    "sam_b16": sam_b16,
    "gsam_b16": gsam_b16,
    **FINETUNING,
}


def list_recipes(pattern: str = "*") -> list[str]:
    """Return the names of the recipes that match a shell pattern."""
    return [name for name in RECIPES if fnmatch.fnmatchcase(name, pattern)]


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe by name; `UserError` names the near misses."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
