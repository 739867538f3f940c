"""MLP-Mixer (arXiv 2105.01601) in PyTorch: models, weights, training, evaluation and reports.

Names are imported when first used, so `import mlp_mixer` costs nothing and touches no device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .compat.lavish619 import MLP_Mixer
    from .compat.lucidrains import MLPMixer, MLPMixer3D
    from .compat.sklearn import MixerClassifier
    from .data import ArraySet, Source, open_source
    from .errors import UserError
    from .images.decode import decode_image
    from .images.preprocess import Preprocess
    from .models import Cost, MixerConfig, MlpMixer, cost, create_model
    from .predict import Failure, Features, Prediction, Predictor, inference_model
    from .weights import Checkpoint, list_models, load, save
    from .weights.convert import convert
    from .weights.hub import from_pretrained, push_to_hub, save_pretrained
    from .weights.resize import resize

__all__ = [
    "ArraySet",
    "Checkpoint",
    "Cost",
    "Failure",
    "Features",
    "MLPMixer",
    "MLPMixer3D",
    "MLP_Mixer",
    "MixerClassifier",
    "MixerConfig",
    "MlpMixer",
    "Prediction",
    "Predictor",
    "Preprocess",
    "Source",
    "UserError",
    "__version__",
    "convert",
    "cost",
    "create_model",
    "decode_image",
    "from_pretrained",
    "inference_model",
    "list_models",
    "load",
    "open_source",
    "push_to_hub",
    "resize",
    "save",
    "save_pretrained",
]

_HOME = {
    **dict.fromkeys(("Cost", "MixerConfig", "MlpMixer", "cost", "create_model"), "models"),
    **dict.fromkeys(("Checkpoint", "list_models", "load", "save"), "weights"),
    **dict.fromkeys(("ArraySet", "Source", "open_source"), "data"),
    **dict.fromkeys(("from_pretrained", "push_to_hub", "save_pretrained"), "weights.hub"),
    **dict.fromkeys(("Failure", "Features", "Prediction", "Predictor", "inference_model"), "predict"),
    **dict.fromkeys(("MLPMixer", "MLPMixer3D"), "compat.lucidrains"),
    "MLP_Mixer": "compat.lavish619",
    "MixerClassifier": "compat.sklearn",
    "convert": "weights.convert",
    "resize": "weights.resize",
    "Preprocess": "images.preprocess",
    "decode_image": "images.decode",
    "UserError": "errors",
}
_ROOMS = {"analysis", "compat", "data", "evaluate", "export", "images", "kernels", "models", "recipes", "report"}
_ROOMS |= {"runtime", "serve", "train", "weights"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'mlp_mixer' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
