"""Recipes: functions that return a complete `TrainConfig`.

The docstring of each states its claim, its cost and its command; `MEASURED` holds the
numbers that this project measured itself.
"""

# Our own recipes train with the exact GELU ("erf"), so that their weights load in timm
# and in most ports; those of the paper and of its authors keep the tanh approximation.

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable

from ..errors import unknown
from ..training.config import TrainConfig
from . import cifar, fashion_mnist
from .deit import A2, GMLP, RESMLP, deit_b16
from .digits import digits
from .keras_example import keras_cifar100
from .measured import MEASURED, Measurement
from .paper import (
    FINETUNING,
    GSAM,
    PRETRAINING,
    bigvision_b16,
    bigvision_b16_60ep,
    sam_b16,
)
from .photos import photos
from .pretrain import pretrain_covered, pretrain_views

__all__ = [
    "MEASURED",
    "RECIPES",
    "Measurement",
    "claim",
    "get_recipe",
    "list_recipes",
]

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist.fashion_mnist,
    "fashion_mnist_12ep": fashion_mnist.fashion_mnist_12ep,
    "fashion_mnist_28ep": fashion_mnist.fashion_mnist_28ep,
    "fashion_mnist_100ep": fashion_mnist.fashion_mnist_100ep,
    "cifar10": cifar.cifar10,
    "cifar10_16ep": cifar.cifar10_16ep,
    "cifar10_50ep": cifar.cifar10_50ep,
    "cifar10_60ep": cifar.cifar10_60ep,
    "cifar10_200ep": cifar.cifar10_200ep,
    "cifar100_200ep": cifar.cifar100_200ep,
    "cifar110_8ep": cifar.cifar110_8ep,
    "keras_cifar100": keras_cifar100,
    "photos": photos,
    "pretrain_views": pretrain_views,
    "pretrain_covered": pretrain_covered,
    **PRETRAINING,
    "bigvision_b16": bigvision_b16,
    "bigvision_b16_60ep": bigvision_b16_60ep,
    "sam_b16": sam_b16,
    **GSAM,
    "deit_b16": deit_b16,
    **RESMLP,
    **GMLP,
    **A2,
    **FINETUNING,
}


def list_recipes(pattern: str = "*") -> list[str]:
    """Return the names of the recipes that match a shell pattern.

    Args:
        pattern: Such as "cifar10*".
    """
    return [name for name in RECIPES if fnmatch.fnmatchcase(name, pattern)]


def get_recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe.

    Args:
        name: One of `list_recipes()`.

    Raises:
        UserError: There is no such recipe; the message names the near misses.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def claim(name: str) -> str:
    """Return the first paragraph of a recipe's docstring, on one line.

    Args:
        name: One of `list_recipes()`.
    """
    return (inspect.getdoc(RECIPES[name]) or "").split("\n\n")[0].replace("\n", " ")
