"""Which images of a source may judge a checkpoint: those it has never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..data.image_set import ImageSet
from ..data.source import HeldOut, Source
from ..data.sources import open_source
from ..errors import UserError
from ..weights import Checkpoint
from .accuracy import Evaluation, align_labels, evaluate

Split = Literal["test", "train", "all"]


@dataclass(frozen=True)
class Judges:
    """Images to evaluate on, and in words which they are."""

    images: ImageSet
    split: str


def judges(spec: str | Source, provenance: Mapping[str, Any], split: Split = "test") -> Judges:
    """Choose the images of a source by the checkpoint's provenance.

    "test" is the source's own test split; of a source without one it is the part that training held out (the same
    images again, found by the fingerprint), or, if the checkpoint was not trained on this source, all of it.
    Raises `UserError` if the source cannot be opened or has no such split.
    """
    trained_on = provenance.get("data") or {}
    seed, fraction = trained_on.get("split_seed", 0), trained_on.get("test_fraction") or 0.2
    source = open_source(spec, split_seed=seed, test_fraction=fraction)
    if split == "train":
        return Judges(source.train, "train")
    if source.held_out is None:
        if split == "all":
            raise UserError(f"{source.spec!r} has a test split of its own; use --split test or --split train")
        assert source.test is not None
        return Judges(source.test, "test")
    if split == "all" or source.fingerprint() != trained_on.get("fingerprint"):
        return Judges(source.all(), "all images")
    return Judges(source.test or source.all(), f"test ({_percent(source.held_out)} % held out by seed {seed})")


def judge(
    checkpoint: Checkpoint,
    spec: str | Source,
    split: Split = "test",
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
) -> tuple[Judges, Evaluation]:
    """Evaluate a checkpoint on the images of a source that may judge it, with classes matched by name.

    device: where to compute, the model's own by default (the model is moved there).
    Raises `UserError` if the source cannot be read, or has classes or channels that the model does not know.
    """
    chosen = judges(spec, checkpoint.provenance, split)
    labels = align_labels(chosen.images, checkpoint.labels) if checkpoint.labels else None
    model = checkpoint.model if device is None else checkpoint.model.to(device)
    return chosen, evaluate(model, chosen.images, checkpoint.preprocess, labels=labels, batch_size=batch_size)


def _percent(held_out: HeldOut) -> str:
    return f"{100 * held_out.test_fraction:g}"
