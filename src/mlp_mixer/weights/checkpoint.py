"""The native checkpoint: one `.safetensors` that knows its architecture, preprocessing, class names and origin.

The tensors carry timm's names, so a model with erf GELU is also a timm checkpoint. Everything else is JSON under the
one metadata key `mlp_mixer` (a single key, because the order of several is not stable and equal runs should give
equal bytes):

    {"format_version": 1, "config": {...}, "preprocess": {...}, "labels": [...], "provenance": {...}}

Version 1 is what this file writes; a change of meaning raises the number, and every older number stays readable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..config import from_dict, to_dict
from ..errors import UserError
from ..files import PathLike, write_bytes
from ..images.preprocess import Preprocess
from ..models.mixer import VARIANTS, MixerConfig, MlpMixer

FORMAT_VERSION = 1
_KEY = "mlp_mixer"


@dataclass(frozen=True)
class Checkpoint:
    """A model with what is needed to use it: how images become its input, and what its answers mean."""

    model: MlpMixer
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None  # names of the classes, in the order of the logits
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    """What the metadata of version 1 holds."""

    config: MixerConfig
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    provenance: dict[str, Any]
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != self.config.num_classes:
            raise UserError(f"{len(self.labels)} labels for {self.config.num_classes} classes: expected one each")


def save(
    path: PathLike,
    model: MlpMixer,
    *,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a native checkpoint atomically and return its path.

    preprocess: how images become the model's input; the default is the paper's range [-1, 1] at the model's size.
    labels: one name per class. provenance: JSON values about the origin of the weights.
    Raises `UserError` if the labels do not fit the model or the file cannot be written.
    """
    config = model.config
    header = _Header(
        config,
        preprocess or default_preprocess(config),
        tuple(labels) if labels is not None else None,
        dict(provenance or {}),
    )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    target = Path(path)
    write_bytes(target, safetensors.torch.save(tensors, {_KEY: json.dumps(to_dict(header), ensure_ascii=False)}))
    return target


def find_checkpoint(path: PathLike) -> Path:
    """The file that a path means: itself, or `best.safetensors` in the folder of a training run."""
    given = Path(path)
    if str(path) in VARIANTS and not given.exists():
        raise UserError(f"{str(path)!r} is an architecture without weights of its own; train it, or give a checkpoint")
    best = given / "best.safetensors"
    if given.is_dir() and not best.is_file():
        raise UserError(f"the folder {str(given)!r} holds no best.safetensors; give a checkpoint or a run's folder")
    return best if given.is_dir() else given


def load(path: PathLike) -> Checkpoint:
    """Read a native checkpoint: the model in evaluation mode on the CPU, in the dtype it was stored in.

    path: a `.safetensors` file, or the folder of a training run (then its best checkpoint).
    Raises `UserError` if there is no such file, it is damaged or not a native checkpoint, or its tensors are not
    exactly those of its architecture (the message lists what is missing, unexpected and mis-shaped).
    """
    file = find_checkpoint(path)
    header, tensors = read_file(file, _KEY)
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{str(file)!r} has checkpoint format {version!r}, this version of mlp-mixer reads up to {FORMAT_VERSION}; "
            "install a newer mlp-mixer"
        )
    try:
        read = from_dict(_Header, header)
    except UserError as error:
        raise UserError(f"{str(file)!r} has a broken description: {error}") from error
    return Checkpoint(_strict_load(read.config, tensors, str(file)), read.preprocess, read.labels, read.provenance)


def default_preprocess(config: MixerConfig) -> Preprocess:
    """The paper's: values in [-1, 1], resized and cropped to the model's own size."""
    return Preprocess(image_size=config.image_size, channels=config.in_channels, mean=(0.5,), std=(0.5,))


def read_file(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON under one metadata key, and all tensors, of a safetensors file of ours; `UserError` if it is not one."""
    if not path.is_file():
        raise UserError(f"no checkpoint at {str(path)!r}; give the path of a .safetensors file that mlp-mixer wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata[key]) if key in metadata else None
            tensors = {name: file.get_tensor(name) for name in file.keys()} if header else {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is damaged or no safetensors file ({error}); restore or retrain it") from error
    if not isinstance(header, dict):
        raise UserError(f"{str(path)!r} is a safetensors file, but not one written by mlp-mixer (no {key!r} metadata)")
    return header, tensors


def _strict_load(config: MixerConfig, tensors: dict[str, Tensor], source: str) -> MlpMixer:
    with torch.device("meta"):
        model = MlpMixer(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(tensor.shape)}, expected {expected[name]}"
        for name, tensor in tensors.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"{source!r} does not fit its architecture: {shown}")
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(True).eval()
