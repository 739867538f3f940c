"""What can be had by name: architectures, and (none so far) published weights."""

from __future__ import annotations

import fnmatch

from ..models import variants

CATALOG: dict[str, str] = {}
"""Name of published weights -> where they are. No lineage's files can be read yet, so none is listed."""


def list_models(pattern: str = "*", *, weights: bool = False) -> list[str]:
    """Names that match a shell pattern: of architectures for `create_model`, or of published weights for `load`."""
    if weights:
        return [name for name in CATALOG if fnmatch.fnmatchcase(name, pattern)]
    return variants(pattern)
