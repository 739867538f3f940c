"""What a native checkpoint says of itself, beside its tensors; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..images.preprocess import Preprocess

FORMAT_VERSION = 1

KEY = "mlp_mixer"
"""The metadata key of the description."""


@dataclass(frozen=True)
class Header:
    """Holds what the metadata of version 1 says.

    Attributes:
        config: The architecture: fields, and the name of a family that is no Mixer.
        preprocess: How an image becomes the network's input.
        labels: The names of the classes in the order of the logits, if they are known.
        provenance: Where the weights come from, as JSON values.
        format_version: Of the description.

    Raises:
        UserError: There is not one label for each class.
    """

    config: dict[str, Any]
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    provenance: dict[str, Any]
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        classes = self.config.get("num_classes", 1000)
        if self.labels is not None and len(self.labels) != classes:
            raise UserError(
                f"{len(self.labels)} labels for {classes} classes: expected one each"
            )
