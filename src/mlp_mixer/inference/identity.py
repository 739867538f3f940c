"""What must be the same for one run of `predict` to continue another one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..config import to_dict
from ..weights.given_labels import GIVEN

if TYPE_CHECKING:
    from .light import LightPredictor
    from .predictor import Predictor


def identity(predictor: Predictor | LightPredictor) -> dict[str, Any]:
    """Return what decides the answers, as JSON values.

    Args:
        predictor: What answers.

    Returns:
        The fingerprint of the weights, and the settings that change answers.
    """
    settings = {
        "weights": predictor.fingerprint(),
        "preprocess": to_dict(predictor.checkpoint.preprocess),
        "top": predictor.top,
        "larger": predictor.larger,
    }
    # Left out where it plays no part: files that 0.1.0 began have no such key.
    if predictor.min_score is not None:
        settings["min_score"] = predictor.min_score
    # Likewise a precision that was admitted.
    settings |= predictor.admitted()
    if predictor.thresholds is not None:
        settings["thresholds"] = list(predictor.thresholds)
    # Names that were given with the weights may be others next time.
    if GIVEN.items() <= predictor.checkpoint.provenance.items():
        settings["labels"] = list(predictor.labels)
    return settings


def run_of(identity: dict[str, Any]) -> str:
    """Return a short name for runs whose answers belong together.

    Args:
        identity: As `identity` returns it.

    Returns:
        Eight hexadecimal digits.
    """
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
