"""A model, a checkpoint or a file for another image size or patch size.

The arithmetic is in `models.resolution`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..choices import ResizeMethod
from ..files import PathLike, write_bytes
from ..models.base import NetworkConfig
from ..models.families import build_network, need_mixer
from ..models.isotropic import IsotropicMlp
from ..models.mixer import MixerConfig
from ..models.resolution import resized
from .checkpoint import Checkpoint, native_bytes
from .convert import check_place
from .loading import read_weights

Resizable = TypeVar("Resizable", IsotropicMlp, IsotropicMlp, Checkpoint)


def resize(
    model_or_checkpoint: Resizable,
    image_size: int | tuple[int, int],
    *,
    method: ResizeMethod = "block_diagonal",
    patch_size: int | None = None,
) -> Resizable:
    """Return the same network for images of another size.

    The argument is not changed and shares no memory with the result. A checkpoint's
    preprocessing gets the new size, and its provenance gets `resized`, which says from
    what and how.

    Args:
        model_or_checkpoint: A Mixer, or a checkpoint of one.
        image_size: Side, or (height, width), in pixels.
        method: "block_diagonal" (the paper's: exact, and larger) or "interpolate" (any
            size); see `models.resolution`.
        patch_size: Side of a patch in pixels; the old one by default.

    Returns:
        A new model for a model, a new checkpoint for a checkpoint, with the dtype,
        device and mode of the old one.

    Raises:
        UserError: The method is unknown, the network is no Mixer, or the patch size or
            the method does not allow the size.
    """
    old = model_or_checkpoint
    if isinstance(old, Checkpoint):
        new = resize(old.model, image_size, method=method, patch_size=patch_size)
        preprocess = replace(old.preprocess, image_size=new.config.image_size)
        provenance = _provenance(old.provenance, old.model.config, method)
        return replace(old, model=new, preprocess=preprocess, provenance=provenance)
    config, tensors = resized(
        need_mixer(old.config, "resize"),
        old.state_dict(),
        image_size,
        method=method,
        patch_size=patch_size,
    )
    with torch.device("meta"):
        model = build_network(config)
    model.load_state_dict(tensors, assign=True)
    return model.train(old.training)


def resize_file(
    source: PathLike,
    out: PathLike,
    image_size: int | tuple[int, int],
    *,
    method: ResizeMethod = "block_diagonal",
    patch_size: int | None = None,
    key: str | None = None,
    overwrite: bool = False,
) -> MixerConfig:
    """Read weights of any lineage and write them for another size.

    Args:
        source: As for `load`.
        out: The native checkpoint to write, a .safetensors file; the tensors keep
            their stored dtype.
        image_size: As for `resize`.
        method: As for `resize`.
        patch_size: As for `resize`.
        key: As for `load`.
        overwrite: Replace `out` if it is there.

    Returns:
        The new architecture.

    Raises:
        UserError: As `load` and `resize` do, or `out` exists.
    """
    check_place(Path(out), "native", Path(source), overwrite)
    stored = read_weights(source, key=key)
    config, tensors = resized(
        need_mixer(stored.config, "resize"),
        stored.tensors,
        image_size,
        method=method,
        patch_size=patch_size,
    )
    new = replace(
        stored,
        config=config,
        tensors=tensors,
        preprocess=replace(stored.preprocess, image_size=config.image_size),
        provenance=_provenance(stored.provenance, stored.config, method),
    )
    write_bytes(out, native_bytes(new))
    return config


def _provenance(
    before: Mapping[str, Any], config: NetworkConfig, method: ResizeMethod
) -> dict[str, Any]:
    """Return the origin with this step; earlier steps are nested inside it."""
    step: dict[str, Any] = {
        "image_size": list(config.image_size),
        "patch_size": config.patch_size,
        "method": method,
    }
    if "resized" in before:
        step["earlier"] = before["resized"]
    return {**before, "resized": step}
