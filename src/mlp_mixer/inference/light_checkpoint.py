"""What a network without torch is, and why some weights are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import UserError
from ..images.preprocess import Preprocess
from ..weights.given_labels import GIVEN, GivenLabels, named_classes

Array = np.ndarray[Any, Any]


class NeedsTorchError(UserError):
    """Say why a checkpoint, or what is asked of it, needs torch."""


@dataclass(frozen=True)
class LightCheckpoint:
    """Holds a network that answers without torch, and what is needed to use it.

    Attributes:
        run: Images as `prepare` makes them (B, ...) -> float32 logits (B, K).
        prepare: A decoded image, uint8 (H', W', C) -> the network's input.
        classes: K, at least 1.
        preprocess: How an image becomes the network's input.
        labels: The names of the classes in the order of the logits, if they are known.
        provenance: Where the weights come from, as JSON values.
        engine: What computes: "numpy" or "onnxruntime".
        fingerprint: 16 hexadecimal digits that change with any weight.
        multiply_adds: For one image; 0 where nobody counts.
    """

    run: Callable[[Array], Array]
    prepare: Callable[[Array], Array]
    classes: int
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    provenance: dict[str, Any]
    engine: str
    fingerprint: str
    multiply_adds: int = 0

    def with_labels(self, labels: GivenLabels) -> LightCheckpoint:
        """Return the checkpoint with other names of its classes.

        Args:
            labels: In the order of the logits, as `load` takes them.

        Raises:
            UserError: The names cannot be read, or there is not one for each class.
        """
        names = named_classes(labels, self.classes)
        return replace(self, labels=names, provenance={**self.provenance, **GIVEN})
