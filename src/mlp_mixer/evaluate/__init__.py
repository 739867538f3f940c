"""How good is a model? Accuracy on labelled images it has not seen."""

from .accuracy import Evaluation, align_labels, evaluate
from .splits import Judges, judge, judges

__all__ = ["Evaluation", "Judges", "align_labels", "evaluate", "judge", "judges"]
