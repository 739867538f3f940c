"""From what a user calls a checkpoint to a file or folder on this machine.

A path, a name of published weights, a repository of the Hugging Face hub or a URL:
whatever is not here yet is downloaded first.
"""

from __future__ import annotations

import hashlib
import os
import urllib.parse
from pathlib import Path
from typing import NamedTuple
from urllib.request import url2pathname

from ..errors import UserError, near_misses, without_secrets
from ..files import PathLike, cache_folder
from ..models.families import ALL_VARIANTS
from ..web import fetch, file_name
from . import catalog
from .huggingface.folder import hub_file, hub_folder

# MiB; the catalog rounds the published sizes to two decimals.
_SIZE_TOLERANCE = 0.01


class Located(NamedTuple):
    """Says where weights are on this machine.

    Attributes:
        path: The file or folder.
        name: What their provenance calls them: a file's own name without its folders,
            or the name or address under which they were published.
        record: What the catalog says of published weights.
    """

    path: Path
    name: str
    record: catalog.PublishedWeights | None = None


def find_file(path_or_name: PathLike) -> Located:
    """Find the file or folder that a path or a name stands for.

    Args:
        path_or_name: As for `load`.

    Returns:
        Where it is.

    Raises:
        UserError: There is no such file or name, or the download failed.
    """
    name = os.fsdecode(path_or_name)
    if path := _on_this_machine(name):
        return Located(path, path.name)
    if record := catalog.find(name):
        return Located(_fetch(record), name, record)
    if name.startswith(("hf-hub:", "hf_hub:")):
        repository = name.split(":", 1)[1]
        return Located(hub_folder(repository), name)
    if name.startswith(("http://", "https://")):
        return Located(_fetch_url(name), without_secrets(name))
    raise _not_found(name)


def _on_this_machine(name: str) -> Path | None:
    """Return the file or folder of a path, None if there is none."""
    # A file that is called so comes before what the text may mean otherwise.
    for path in (name, _local(name)):
        # os.path, because Path.is_dir() and Path.exists() raise for some names (too
        # long, with a null byte), and any text may arrive here.
        if os.path.isdir(path):  # noqa: PTH112
            # The folder of a training run means its best checkpoint.
            best = Path(path, "best.safetensors")
            return best if best.is_file() else Path(path)
        if os.path.exists(path):  # noqa: PTH110
            return Path(path)
    return None


def _local(name: str) -> str:
    """Return the path that a text stands for: `~`, `file://`, timm's `local-dir:`."""
    if name.startswith("file://") and "[" not in name:
        parts = urllib.parse.urlsplit(name)
        if parts.netloc not in ("", "localhost"):
            raise UserError(
                f"{name[:300]!r} is a file of another machine; bring it here, and give "
                "its path"
            )
        name = url2pathname(parts.path)
    name = name.removeprefix("local-dir:")
    # expanduser raises for a null byte behind the tilde.
    return name if "\0" in name else os.path.expanduser(name)  # noqa: PTH111


def _fetch(record: catalog.PublishedWeights) -> Path:
    """Return the file of published weights, downloaded and checked if needed."""
    if record.lineage == "native":
        return catalog.bundled_path(record)
    if record.url is None:
        assert record.hub is not None
        return hub_file(record.hub, record.filename)
    place = catalog.cache_place(record)
    path = fetch(record.url, place, sha256=record.sha256 or "", bar=True)
    # Google publishes no hashes; a size that differs is the next best warning.
    mib = path.stat().st_size / 2**20
    if record.mib is not None and abs(mib - record.mib) > _SIZE_TOLERANCE:
        raise UserError(
            f"{str(path)!r} has {mib:.2f} MiB, {record.name} was published with "
            f"{record.mib}; delete it and try again"
        )
    return path


def _fetch_url(url: str) -> Path:
    """Download a file; equal file names of different addresses do not collide."""
    slug = hashlib.sha256(url.encode()).hexdigest()[:16]
    place = cache_folder("weights", "url", slug, file_name(url))
    return fetch(url, place, bar=True)


def _not_found(name: str) -> UserError:
    """Return the error for a name without weights, with the likely meant ones."""
    if name in ALL_VARIANTS:
        return UserError(
            f"{name!r} is an architecture without weights of its own; train it, or "
            "give a checkpoint"
        )
    close = near_misses(name, catalog.list_models(weights=True))
    hint = "see `mlp-mixer models --weights`"
    if close:
        hint = f"did you mean {' or '.join(map(repr, close))}?"
    return UserError(
        f"no checkpoint at {name[:300]!r}, and no published weights of that name; "
        f"{hint}"
    )
