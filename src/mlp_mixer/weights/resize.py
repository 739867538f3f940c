"""A model, a checkpoint or a file for another image size or patch size; the arithmetic
is `models.resolution`.
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
from ..models.families import need_mixer
from ..models.mixer import MixerConfig, MlpMixer
from ..models.resolution import resized
from .checkpoint import Checkpoint, native_bytes
from .convert import check_place
from .loading import read_weights

Resizable = TypeVar("Resizable", MlpMixer, Checkpoint)


def resize(
    model_or_checkpoint: Resizable,
    image_size: int | tuple[int, int],
    *,
    method: ResizeMethod = "block_diagonal",
    patch_size: int | None = None,
) -> Resizable:
    """The same network for images of another size: a new model for a model, a new
    checkpoint for a checkpoint.

    image_size: side, or (height, width), in pixels. patch_size: in pixels, the old one
        by default.
    method: "block_diagonal" (the paper's: exact, and larger) or "interpolate" (any
        size); see `models.resolution`.

    What came is not changed and shares no memory with the result, which has its dtype,
    device and mode. A checkpoint's preprocessing gets the new size, and its provenance
    `resized`, which says from what and how. Raises `UserError` for an unknown method,
    or a size that the patch size or the method does not allow.
    """
    old = model_or_checkpoint
    if isinstance(old, Checkpoint):
        model = resize(old.model, image_size, method=method, patch_size=patch_size)
        preprocess = replace(old.preprocess, image_size=model.config.image_size)
        provenance = _provenance(old.provenance, old.model.config, method)
        return replace(old, model=model, preprocess=preprocess, provenance=provenance)
    config, tensors = resized(
        need_mixer(old.config, "resize"),
        old.state_dict(),
        image_size,
        method=method,
        patch_size=patch_size,
    )
    with torch.device("meta"):
        model = MlpMixer(config)
    model.load_state_dict(tensors, assign=True)
    return model.train(old.training)


def resize_file(
    source: PathLike,
    out: PathLike,
    image_size: int | tuple[int, int],
    *,
    method: ResizeMethod = "block_diagonal",
    patch_size: int | None = None,
    overwrite: bool = False,
) -> MixerConfig:
    """Read weights of any lineage, write them for another size as a native checkpoint,
    and give its architecture.

    source: as for `load`. out: a .safetensors file; overwrite: replace it if it is
        there. The rest as for `resize`.
    Tensors keep their stored dtype. Raises `UserError` as `load` and `resize` do, or if
    `out` exists.
    """
    check_place(Path(out), "native", Path(source), overwrite)
    stored = read_weights(source)
    config, tensors = resized(
        need_mixer(stored.config, "resize"),
        stored.tensors,
        image_size,
        method=method,
        patch_size=patch_size,
    )
    preprocess = replace(stored.preprocess, image_size=config.image_size)
    provenance = _provenance(stored.provenance, stored.config, method)
    stored = replace(
        stored,
        config=config,
        tensors=tensors,
        preprocess=preprocess,
        provenance=provenance,
    )
    write_bytes(out, native_bytes(stored))
    return config


def _provenance(
    before: Mapping[str, Any], config: NetworkConfig, method: ResizeMethod
) -> dict[str, Any]:
    """The origin, and what was resized; after several times the last one, with those
    before inside.
    """
    step = {
        "image_size": list(config.image_size),
        "patch_size": config.patch_size,
        "method": method,
    }
    return {
        **before,
        "resized": step
        | ({"earlier": before["resized"]} if "resized" in before else {}),
    }
