"""Which images a network has learnt from, as its checkpoint remembers them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .image_set import ImageSet
from .keys import Keys

MOST_REMEMBERED = 200_000
"""Images, beyond which a checkpoint would hold more keys than weights."""

_MOST_BYTES = 4 * MOST_REMEMBERED
_NONE = np.zeros(0, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class SeenImages:
    """Hold the images that a network and those it began from have learnt from.

    Attributes:
        short_keys: uint32 (M,), the upper halves of the images' keys, rising and
            different. Of n other images about n M / 2^32 are taken for them.
        complete: Whether these are all of them. False: some dataset was too large to
            be remembered.
        unlabelled: uint32 (U,), likewise of those that it has seen without labels.
        sources: Datasets, by the names that `open_dataset` knows, that it has learnt
            from in another coding, which keys do not tell: "cifar10 train" for the
            training split alone, "cifar100" where any image may be among them.
    """

    short_keys: NDArray[np.uint32]
    complete: bool = True
    unlabelled: NDArray[np.uint32] = field(default_factory=lambda: _NONE)
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, *images: ImageSet | None, labelled: bool = True) -> SeenImages:
        """Return the record of some images.

        Args:
            images: Sets of them; None is an empty one.
            labelled: Whether their labels are learnt.
        """
        parts = [part for part in images if part is not None]
        # Asked first: the keys of a million files take minutes.
        if sum(map(len, parts)) > MOST_REMEMBERED:
            return cls(_NONE, complete=False)
        keys = [_short(part.keys()) for part in parts]
        every = np.unique(np.concatenate([_NONE, *keys]))
        return cls(every) if labelled else cls(_NONE, unlabelled=every)

    @classmethod
    def unknown(cls) -> SeenImages:
        """Return the record of weights that say nothing of their images."""
        return cls(_NONE, complete=False)

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> SeenImages | None:
        """Return what a checkpoint remembers; None if it remembers nothing.

        Args:
            provenance: Of the checkpoint.

        Raises:
            UserError: The record is damaged.
        """
        record = provenance.get("seen")
        if record is None:
            return None
        try:
            return cls(
                _unpacked(record["keys"]),
                bool(record["complete"]),
                _unpacked(record["unlabelled"]),
                tuple(map(str, record.get("sources", ()))),
            )
        except (TypeError, KeyError, ValueError, binascii.Error, zlib.error) as error:
            raise UserError(
                "the checkpoint's record of the images it has learnt from is damaged "
                f"({error}); fetch or train it again"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the record for a checkpoint's provenance under the key "seen"."""
        record = {
            "images": len(self.short_keys),
            "complete": self.complete,
            "keys": _packed(self.short_keys),
            "unlabelled": _packed(self.unlabelled),
        }
        if self.sources:
            record["sources"] = list(self.sources)
        return record

    def digest(self) -> str:
        """Return 16 hexadecimal digits that change with any of the images."""
        parts = (self.short_keys.tobytes(), self.unlabelled.tobytes())
        return hashlib.sha256(b"/".join(parts)).hexdigest()[:16]

    def __or__(self, other: SeenImages) -> SeenImages:
        """Return the record of the images of both."""
        complete = self.complete and other.complete
        both = np.union1d(self.short_keys, other.short_keys)
        unlabelled = np.union1d(self.unlabelled, other.unlabelled)
        sources = tuple(sorted({*self.sources, *other.sources}))
        if len(both) + len(unlabelled) > MOST_REMEMBERED:
            # The newer images are those that people evaluate on.
            return SeenImages(other.short_keys, False, other.unlabelled, sources)
        return SeenImages(both, complete, unlabelled, sources)

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which images are among them.

        Args:
            keys: (N,).

        Returns:
            bool (N,).
        """
        return np.isin(_short(keys), self.short_keys)

    def contains_unlabelled(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which images were seen without labels.

        Args:
            keys: (N,).

        Returns:
            bool (N,).
        """
        return np.isin(_short(keys), self.unlabelled)


def _packed(keys: NDArray[np.uint32]) -> str:
    # Differences are small numbers, of which zlib leaves little.
    steps = np.diff(keys.astype(np.uint64), prepend=np.uint64(0))
    data = zlib.compress(steps.astype("<u4").tobytes(), 9)
    return base64.b64encode(data).decode()


def _unpacked(text: str) -> NDArray[np.uint32]:
    data = zlib.decompressobj().decompress(
        base64.b64decode(text, validate=True), _MOST_BYTES
    )
    steps = np.frombuffer(data, dtype="<u4").astype(np.uint64)
    return np.cumsum(steps, dtype=np.uint64).astype(np.uint32)


def _short(keys: Keys) -> NDArray[np.uint32]:
    return (keys >> np.uint64(32)).astype(np.uint32)
