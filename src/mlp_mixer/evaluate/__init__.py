"""How good is a model? Accuracy on labelled images it has not seen, and what can be learnt from its features."""

from .accuracy import Evaluation, align_labels, evaluate
from .fewshot import FewShot, fewshot_accuracy, fewshot_curve, judge_features, knn_accuracy
from .splits import Judges, judge, judges

__all__ = [
    "Evaluation",
    "FewShot",
    "Judges",
    "align_labels",
    "evaluate",
    "fewshot_accuracy",
    "fewshot_curve",
    "judge",
    "judge_features",
    "judges",
    "knn_accuracy",
]
