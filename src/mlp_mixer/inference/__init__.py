"""From pictures to answers: the predictor, and answer files that survive a kill."""

from ..weights.scores import SCORES
from .answers import Written, features_to_file, predict_to_file
from .joining import join_answers
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
