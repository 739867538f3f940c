"""How good is a model? Accuracy on labelled images it has not seen.

And what can be learnt from its features, with few images.
"""

from .abstain import Answered, answered, choose_min_score
from .accuracy import Evaluation, align_labels, evaluate
from .corruptions import CorruptionErrors, corruption_errors
from .fewshot import (
    FewShot,
    evaluate_fewshot,
    fewshot_accuracy,
    fewshot_curve,
    knn_accuracy,
)
from .multilabel import MultiLabelEvaluation, evaluate_labels
from .splits import EvalSplit, eval_split, evaluate_checkpoint

__all__ = [
    "Answered",
    "CorruptionErrors",
    "EvalSplit",
    "Evaluation",
    "FewShot",
    "MultiLabelEvaluation",
    "align_labels",
    "answered",
    "choose_min_score",
    "corruption_errors",
    "eval_split",
    "evaluate",
    "evaluate_checkpoint",
    "evaluate_fewshot",
    "evaluate_labels",
    "fewshot_accuracy",
    "fewshot_curve",
    "knn_accuracy",
]
