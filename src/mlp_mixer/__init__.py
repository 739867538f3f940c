"""MLP-Mixer (arXiv 2105.01601) in PyTorch: models, weights, training and reports.

Names are imported when first used, so `import mlp_mixer` takes no time and touches no
device. The verbs (`train`, `pretrain`, `finetune`, `average`, `evaluate`, `probe`,
`predict`, `export`) do what the commands of their names do.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .api import (
        average,
        evaluate,
        export,
        finetune,
        predict,
        pretrain,
        probe,
        train,
    )
    from .compat.sklearn import MixerClassifier
    from .data import ArraySet, Dataset, open_dataset
    from .errors import UserError
    from .evaluation import Evaluation, fewshot_accuracy
    from .images.decode import decode_image
    from .images.preprocess import Preprocess
    from .inference import (
        Failure,
        Features,
        LightPredictor,
        Prediction,
        Predictor,
        inference_model,
    )
    from .kernels import fuse
    from .models import Cost, MixerConfig, MlpMixer, cost, create_model
    from .recipes import get_recipe, list_recipes
    from .training import Interrupted, TrainConfig
    from .weights import Checkpoint, list_models, load, save
    from .weights.convert import convert
    from .weights.huggingface.hub import from_pretrained, push_to_hub, save_pretrained
    from .weights.resize import resize

__all__ = [
    "ArraySet",
    "Checkpoint",
    "Cost",
    "Dataset",
    "Evaluation",
    "Failure",
    "Features",
    "Interrupted",
    "LightPredictor",
    "MixerClassifier",
    "MixerConfig",
    "MlpMixer",
    "Prediction",
    "Predictor",
    "Preprocess",
    "TrainConfig",
    "UserError",
    "__version__",
    "average",
    "convert",
    "cost",
    "create_model",
    "decode_image",
    "evaluate",
    "export",
    "fewshot_accuracy",
    "finetune",
    "from_pretrained",
    "fuse",
    "get_recipe",
    "inference_model",
    "list_models",
    "list_recipes",
    "load",
    "open_dataset",
    "predict",
    "pretrain",
    "probe",
    "push_to_hub",
    "resize",
    "save",
    "save_pretrained",
    "train",
]

_NAMES_OF_MODULE = {
    "api": (
        "average",
        "evaluate",
        "export",
        "finetune",
        "predict",
        "pretrain",
        "probe",
        "train",
    ),
    "compat.sklearn": ("MixerClassifier",),
    "data": ("ArraySet", "Dataset", "open_dataset"),
    "errors": ("UserError",),
    "evaluation": ("Evaluation", "fewshot_accuracy"),
    "images.decode": ("decode_image",),
    "images.preprocess": ("Preprocess",),
    "inference": (
        "Failure",
        "Features",
        "LightPredictor",
        "Prediction",
        "Predictor",
        "inference_model",
    ),
    "kernels": ("fuse",),
    "models": ("Cost", "MixerConfig", "MlpMixer", "cost", "create_model"),
    "recipes": ("get_recipe", "list_recipes"),
    "training": ("Interrupted", "TrainConfig"),
    "weights": ("Checkpoint", "list_models", "load", "save"),
    "weights.convert": ("convert",),
    "weights.huggingface.hub": ("from_pretrained", "push_to_hub", "save_pretrained"),
    "weights.resize": ("resize",),
}
_MODULE_OF_NAME = {
    name: module for module, names in _NAMES_OF_MODULE.items() for name in names
}
_ROOMS = frozenset(
    (
        "analysis",
        "bench",
        "check",
        "compat",
        "data",
        "evaluation",
        "exporting",
        "images",
        "inference",
        "kernels",
        "models",
        "recipes",
        "report",
        "runtime",
        "serve",
        "training",
        "weights",
    )
)

# Constructors of other projects, which people type by habit.
_MEANT = {
    "MLPMixer": "did you mean MlpMixer (this package's network; `create_model` builds it) "
    "or mlp_mixer.compat.lucidrains.MLPMixer (lucidrains' constructor)?",
    "MLPMixer3D": "did you mean mlp_mixer.compat.lucidrains.MLPMixer3D (lucidrains' "
    "constructor)?",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name in _MODULE_OF_NAME:
        module = importlib.import_module(f".{_MODULE_OF_NAME[name]}", __name__)
        value = globals()[name] = getattr(module, name)
        return value
    if name == "MLP_Mixer":
        return _lavish619_constructor()
    hint = f"; {_MEANT[name]}" if name in _MEANT else ""
    raise AttributeError(f"module 'mlp_mixer' has no attribute {name!r}{hint}")


def _lavish619_constructor() -> Any:
    """The old place of lavish619's constructor, with a warning."""
    warnings.warn(
        "mlp_mixer.MLP_Mixer has moved to mlp_mixer.compat.lavish619.MLP_Mixer, and its "
        "default widths are lavish619's, not the paper's (tokens and channels are "
        "swapped): use mlp_mixer.create_model for the paper's networks",
        DeprecationWarning,
        stacklevel=3,
    )
    return importlib.import_module(".compat.lavish619", __name__).MLP_Mixer


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF_NAME, *_ROOMS})
