"""One picture of a page, with its labels and what the network answered."""

from __future__ import annotations

from dataclasses import dataclass

from .html import Image8


@dataclass(frozen=True)
class Sample:
    """Show one picture with its prediction.

    Attributes:
        name: Of the picture.
        image: uint8 (H, W, C), C 1 or 3.
        true_class: Its class, if it is known.
        top: The best classes with probabilities (0 to 1), best first.
        heat: The picture under a map of the places that speak for the best class,
            uint8 (H, W, 3).
        labels: Of a picture with several labels all of them; else None.
        answered: Likewise the labels that the network gave it.
    """

    name: str
    image: Image8
    true_class: str | None
    top: tuple[tuple[str, float], ...]
    heat: Image8 | None = None
    labels: tuple[str, ...] | None = None
    answered: tuple[str, ...] = ()

    def is_true(self, name: str) -> bool:
        """Return whether a class is a right answer.

        Args:
            name: Of the class.
        """
        if self.labels is not None:
            return name in self.labels
        return name == self.true_class

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right, with all labels; None where that is not known."""
        if self.labels is not None:
            return set(self.labels) == set(self.answered)
        if not self.top or self.true_class is None:
            return None
        return self.top[0][0] == self.true_class
