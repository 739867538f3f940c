"""From pictures to answers: the predictor, and files of its answers that a killed run can continue."""

from .predictor import (
    SCORES,
    Candidate,
    Failure,
    Features,
    Prediction,
    Predictor,
    inference_model,
)

__all__ = [
    "SCORES",
    "Candidate",
    "Failure",
    "Features",
    "Prediction",
    "Predictor",
    "inference_model",
]
