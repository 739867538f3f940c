"""From pictures to answers: the predictor, and answer files that survive a kill."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..weights.scores import SCORES
    from .answers import Written, features_to_file, predict_to_file
    from .joining import join_answers
    from .light import LightPredictor
    from .mmpretrain import inference_model
    from .parts import Part
    from .predictor import Predictor
    from .processes import predict_on_devices
    from .results import Candidate, Failure, Features, Prediction
    from .sorting import Sorter

__all__ = [
    "SCORES",
    "Candidate",
    "Failure",
    "Features",
    "LightPredictor",
    "Part",
    "Prediction",
    "Predictor",
    "Sorter",
    "Written",
    "features_to_file",
    "inference_model",
    "join_answers",
    "predict_on_devices",
    "predict_to_file",
]

# Imported when first used: only some of them need torch.
_MODULE_OF_NAME = {
    "SCORES": "..weights.scores",
    "Candidate": ".results",
    "Failure": ".results",
    "Features": ".results",
    "LightPredictor": ".light",
    "Part": ".parts",
    "Prediction": ".results",
    "Predictor": ".predictor",
    "Sorter": ".sorting",
    "Written": ".answers",
    "features_to_file": ".answers",
    "inference_model": ".mmpretrain",
    "join_answers": ".joining",
    "predict_on_devices": ".processes",
    "predict_to_file": ".answers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_MODULE_OF_NAME[name], __name__)
    value = globals()[name] = getattr(module, name)
    return value
