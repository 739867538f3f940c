"""Which images a network has learnt from, as its checkpoint remembers them."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    short_keys: NDArray[np.uint32]
    complete: bool = True

    @classmethod
    def of(cls, *images: ImageSet | None) -> SeenImages:
        """Return the record of some images.

        Args:
            images: Sets of them; None is an empty one.
        """
        parts = [part for part in images if part is not None]
        # Asked first: the keys of a million files take minutes.
        if sum(map(len, parts)) > MOST_REMEMBERED:
            return cls(_NONE, complete=False)
        keys = [_short(part.keys()) for part in parts]
        return cls(np.unique(np.concatenate([_NONE, *keys])))

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
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(
                base64.b64decode(record["keys"], validate=True), _MOST_BYTES
            )
            steps = np.frombuffer(data, dtype="<u4").astype(np.uint64)
            keys = np.cumsum(steps, dtype=np.uint64).astype(np.uint32)
            return cls(keys, bool(record["complete"]))
        except (TypeError, KeyError, ValueError, binascii.Error, zlib.error) as error:
            raise UserError(
                "the checkpoint's record of the images it has learnt from is damaged "
                f"({error}); fetch or train it again"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the record for a checkpoint's provenance under the key "seen"."""
        # Differences are small numbers, of which zlib leaves little.
        steps = np.diff(self.short_keys.astype(np.uint64), prepend=np.uint64(0))
        data = zlib.compress(steps.astype("<u4").tobytes(), 9)
        return {
            "images": len(self.short_keys),
            "complete": self.complete,
            "keys": base64.b64encode(data).decode(),
        }

    def __or__(self, other: SeenImages) -> SeenImages:
        """Return the record of the images of both."""
        complete = self.complete and other.complete
        both = np.union1d(self.short_keys, other.short_keys)
        if len(both) > MOST_REMEMBERED:
            # The newer images are those that people evaluate on.
            return SeenImages(other.short_keys, complete=False)
        return SeenImages(both, complete)

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which images are among them.

        Args:
            keys: (N,).

        Returns:
            bool (N,).
        """
        return np.isin(_short(keys), self.short_keys)


def _short(keys: Keys) -> NDArray[np.uint32]:
    return (keys >> np.uint64(32)).astype(np.uint32)
