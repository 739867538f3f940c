"""mmpretrain's `inference_model`: scores of all classes for one picture, as a dict."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import torch

from ..weights import Checkpoint
from ..weights.scores import SCORES
from .pictures import Picture
from .predictor import Predictor


def inference_model(
    model: str | os.PathLike[str] | Checkpoint | Predictor,
    image: Picture,
    *,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Return the scores of all classes for one picture.

    The result has the form of mmpretrain's function of this name.

    Args:
        model: What `load` takes (the last two are kept in memory), a checkpoint, or a
            predictor, which stays on its own device.
        image: Anything that stands for one picture.
        device: "auto" is a GPU if there is one, else the CPU; or a name of torch's.

    Returns:
        `pred_scores`, float32 (K,), as `SCORES` makes them; `pred_label`, the best
        class; `pred_score`; and `pred_class`, if the checkpoint knows names.

    Raises:
        UserError: The model, the device or the picture cannot be used.
    """
    if isinstance(model, Predictor):
        predictor = model
    elif isinstance(model, Checkpoint):
        predictor = Predictor(model, device=device)
    else:
        predictor = _loaded(os.fspath(model), str(device), _stamp(model))
    _, logits = predictor.logits_of(image)
    scores = SCORES[predictor.score_kind](logits).numpy()
    label = int(logits.argmax())
    answer = {
        "pred_scores": scores,
        "pred_label": label,
        "pred_score": float(scores[label]),
    }
    labels = predictor.checkpoint.labels
    if labels:
        answer["pred_class"] = labels[label]
    return answer


@functools.lru_cache(maxsize=2)
def _loaded(source: str, device: str, stamp: object) -> Predictor:
    """The stamp is part of the key only: a changed file is loaded again."""
    return Predictor(source, device=device)


def _stamp(source: str | os.PathLike[str]) -> tuple[object, ...]:
    """Return what differs once a file (or a file of a folder) has been replaced.

    It is empty for a name from the catalog.
    """
    files = [Path(source), *sorted(Path(source).glob("*"))]
    stamp = []
    for file in files:
        if file.is_file():
            facts = file.stat()
            # The absolute path: one relative name means another file elsewhere.
            path = str(file.resolve())
            stamp.append((path, facts.st_ino, facts.st_mtime_ns, facts.st_size))
    return tuple(stamp)
