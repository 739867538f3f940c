"""The native checkpoint: one `.safetensors` that knows its architecture, preprocessing,
class names and origin.

The tensors carry timm's names, so a model with erf GELU is also a timm checkpoint.
Everything else is JSON under the one metadata key `mlp_mixer` (a single key, because
the order of several is not stable and equal runs should give equal bytes):

    {"format_version": 1, "config": {...}, "preprocess": {...}, "labels": [...],
    "provenance": {...}}

`config` names the network's `family`, unless it is a Mixer.

Version 1 is what this file writes; a change of meaning raises the number, and every
older number stays readable.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
from ..models.base import NetworkConfig
from ..models.families import config_from_dict, config_to_dict
from ..models.mixer import MlpMixer
from .lineages.transforms import eval_preprocess

FORMAT_VERSION = 1
KEY = "mlp_mixer"


@dataclass(frozen=True)
class Checkpoint:
    """A model with what is needed to use it: how images become its input, and what its
    answers mean.
    """

    model: MlpMixer
    preprocess: Preprocess
    labels: tuple[str, ...] | None = (
        None  # names of the classes, in the order of the logits
    )
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredWeights:
    """A checkpoint before a network is built: our tensor names, the dtype and the
    lineage it was stored in.
    """

    config: NetworkConfig
    tensors: dict[str, Tensor]
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    provenance: dict[str, Any]
    lineage: str

    @classmethod
    def of(
        cls,
        model: MlpMixer,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> StoredWeights:
        """A model as it is now; see `save`."""
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in model.state_dict().items()
        }
        preprocess = preprocess or eval_preprocess(
            "paper", model.config.image_size, model.config.in_channels
        )
        names = None if labels is None else tuple(labels)
        return cls(
            model.config, tensors, preprocess, names, dict(provenance or {}), "native"
        )

    def build(self) -> Checkpoint:
        """The network in evaluation mode, fp32 on the CPU, with what belongs to it."""
        with torch.device("meta"):
            model = MlpMixer(self.config)
        model.load_state_dict(
            {n: t.to(torch.float32) for n, t in self.tensors.items()},
            strict=True,
            assign=True,
        )
        return Checkpoint(
            model.requires_grad_(True).eval(),
            self.preprocess,
            self.labels,
            self.provenance,
        )


@dataclass(frozen=True)
class _Header:
    """What the metadata of version 1 holds."""

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


def save(
    path: PathLike,
    model: MlpMixer,
    *,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a native checkpoint atomically and return its path.

    preprocess: how images become the model's input; the default is the paper's range
        [-1, 1] at the model's size.
    labels: one name per class. provenance: JSON values about the origin of the weights.
    Raises `UserError` if the labels do not fit the model or the file cannot be written.
    """
    write_bytes(
        path, native_bytes(StoredWeights.of(model, preprocess, labels, provenance))
    )
    return Path(path)


def native_bytes(stored: StoredWeights) -> bytes:
    """A native checkpoint as bytes; the tensors keep their dtype."""
    return safetensors.torch.save(
        stored.tensors, {KEY: json.dumps(description(stored), ensure_ascii=False)}
    )


def description(stored: StoredWeights) -> dict[str, Any]:
    """The JSON beside the tensors; `UserError` if the labels do not fit."""
    return to_dict(
        _Header(
            config_to_dict(stored.config),
            stored.preprocess,
            stored.labels,
            stored.provenance,
        )
    )


def read_native(
    described: Mapping[str, Any], tensors: dict[str, Tensor], source: str
) -> StoredWeights:
    """A description and its tensors, checked against each other; `UserError` lists
    every tensor that does not fit.
    """
    version = described.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{source} has checkpoint format {version!r}, this version of mlp-mixer reads up to {FORMAT_VERSION}; "
            "install a newer mlp-mixer"
        )
    try:
        header = from_dict(_Header, described)
        config = config_from_dict(header.config)
        problems = misfits(config, tensors)
    except (
        UserError,
        RuntimeError,
        OverflowError,
        TypeError,
    ) as error:  # torch's, for sizes that no memory has
        raise UserError(
            f"{source} has a broken description: {' '.join(str(error).split())[:300]}"
        ) from error
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        )
        raise UserError(f"{source} does not fit its architecture: {shown}")
    return StoredWeights(
        config, tensors, header.preprocess, header.labels, header.provenance, "native"
    )


def misfits(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Which tensors that network lacks or does not have in that shape, in words."""
    if config.num_blocks > len(tensors):
        return [f"{config.num_blocks} blocks in {len(tensors)} tensors"]
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in MlpMixer(config).state_dict().items()
        }
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    return problems + [
        f"{name} is {tuple(tensor.shape)}, expected {expected[name]}"
        for name, tensor in tensors.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]


@contextlib.contextmanager
def opened(path: Path, key: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """The JSON under one metadata key of a safetensors file of ours, and the file;
    `UserError` if it is not one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata[key]) if key in metadata else None
            if not isinstance(header, dict):
                raise UserError(
                    f"{str(path)!r} is a safetensors file, but not one written by mlp-mixer (no {key!r} metadata)"
                )
            yield header, file
    except UserError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} is damaged or no safetensors file ({error}); restore or retrain it"
        ) from error
