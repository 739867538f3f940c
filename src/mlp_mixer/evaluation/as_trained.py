"""Open a dataset with the split that the training of a checkpoint made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.dataset import Dataset
from ..data.registry import open_dataset


def open_as_trained(
    spec: str | Dataset, provenance: Mapping[str, Any], *, to_learn: bool = True
) -> Dataset:
    """Open a dataset, split as for the training of a checkpoint.

    Args:
        spec: What `open_dataset` takes; a `Dataset` is returned as it is.
        provenance: Of the checkpoint; without a split of its own, the default one.
        to_learn: As for `open_dataset`.

    Raises:
        UserError: The dataset cannot be opened.
    """
    data = provenance.get("data") or {}
    # 0.1.0 split by position, and did not say so.
    split_by = data.get("split_by", "position" if "split_seed" in data else "image")
    return open_dataset(
        spec,
        split_seed=data.get("split_seed", 0),
        test_fraction=data.get("test_fraction") or 0.2,
        split_by=split_by,
        to_learn=to_learn,
    )
