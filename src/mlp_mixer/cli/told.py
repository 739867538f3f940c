"""What `mlp-mixer predict` says of its answers: tables, and lines on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..intervals import accuracy
from .console import percent, print_table

if TYPE_CHECKING:
    from ..inference import LightPredictor, Prediction, Predictor, Sorter


_NOTES = {
    "sigmoid": "scores are sigmoids: each class is scored on its own, and they need not "
    "sum to 1",
    "semantic softmax": "scores rank the classes and are no probabilities: this head was "
    "trained in groups of classes",
}


def print_answers(answers: list[Prediction]) -> None:
    """Print one row for each picture.

    Args:
        answers: At least one, all of one predictor.
    """
    first = answers[0]
    if first.labels is not None:
        _print_labels(answers)
        return
    # Once on stderr, so that the table on stdout stays a table.
    if first.score_kind in _NOTES:
        print(_NOTES[first.score_kind], file=sys.stderr)
    _print_table(answers)


def _print_table(answers: list[Prediction]) -> None:
    headings = {"picture": "left", "class": "left", "score": "right", "or else": "left"}
    rows = []
    for answer in answers:
        others = []
        # What an unknown picture may be all the same stands first.
        first = 0 if answer.pred_label is None else 1
        for candidate in answer.top[first : first + 2]:
            others.append(f"{candidate.name} {percent(candidate.score)}")
        score = percent(answer.pred_score)
        rows.append((answer.path, answer.pred_class, score, ", ".join(others)))
    print_table(headings, rows)


def _print_labels(answers: list[Prediction]) -> None:
    """Print all labels of each picture; of one without a label what comes closest."""
    headings = {"picture": "left", "labels": "left", "closest other": "left"}
    rows = []
    for answer in answers:
        labels = answer.labels or ()
        texts = [f"{label.name} {percent(label.score)}" for label in labels]
        others = [candidate for candidate in answer.top if candidate not in labels]
        closest = ""
        if others:
            closest = f"{others[0].name} {percent(others[0].score)}"
        rows.append((answer.path, ", ".join(texts) or "-", closest))
    print_table(headings, rows)


def tell_unknown(
    predictor: Predictor | LightPredictor, wanted: str, unknown: int, answers: int
) -> None:
    """Say on stderr how many pictures have no answer, and where the limit is from.

    Args:
        predictor: What answered.
        wanted: The lowest score, as typed.
        unknown: How many pictures are unknown.
        answers: Of how many that could be read.
    """
    from ..weights.scores import AUTO, chosen_min_score

    print(
        f"{unknown} of {answers} pictures are unknown: their best score is below "
        f"{predictor.min_score:.4g}",
        file=sys.stderr,
    )
    chosen = chosen_min_score(predictor.checkpoint.provenance)
    if wanted == AUTO and chosen is not None:
        answered = round(chosen.coverage * chosen.n)
        print(
            f"of {chosen.n:,} validation images it answers {answered:,}, and is right in "
            f"{accuracy(chosen.accuracy, answered)}",
            file=sys.stderr,
        )


def tell_sorted(sorter: Sorter) -> None:
    """Say on stderr what came into which folder.

    Args:
        sorter: What has sorted.
    """
    counts = [f"{count:,} {name}" for name, count in sorted(sorter.counts.items())]
    print(
        f"sorted {sorter.counts.total():,} pictures into {sorter.folder}: "
        f"{', '.join(counts) or 'none'} (each is a {sorter.by})",
        file=sys.stderr,
    )
    if sorter.without_file:
        print(
            f"{sorter.without_file:,} answers are about addresses or frames of videos, "
            "which are no files to sort",
            file=sys.stderr,
        )
