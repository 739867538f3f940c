"""From pictures to answers: the predictor, and answer files that survive a kill."""

from ..weights.scores import SCORES
from .answers import Written, features_to_file, predict_to_file
from .mmpretrain import inference_model
from .predictor import Predictor
from .results import Candidate, Failure, Features, Prediction
from .sorting import Sorter

__all__ = [
    "SCORES",
    "Candidate",
    "Failure",
    "Features",
    "Prediction",
    "Predictor",
    "Sorter",
    "Written",
    "features_to_file",
    "inference_model",
    "predict_to_file",
]
