"""The native checkpoint: one `.safetensors` file that describes itself.

It knows its architecture, preprocessing, class names and origin. The tensors carry
timm's names, so a model with erf GELU is also a timm checkpoint. Everything else is
JSON under the one metadata key `mlp_mixer` (a single key, because the order of several
is not stable and equal runs should give equal bytes), but for a check sum (`seal`):

    {"format_version": 1, "config": {...}, "preprocess": {...}, "labels": [...],
    "provenance": {...}}

`config` names the network's `family`, unless it is a Mixer.

Version 1 is what this module writes. A change of meaning raises the number, and every
older number stays readable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ..config import from_dict, to_dict
from ..errors import UserError
from ..files import PathLike, write_bytes
from ..images.preprocess import Preprocess
from ..models.base import NetworkConfig
from ..models.families import build_network, config_from_dict, config_to_dict
from ..models.isotropic import IsotropicMlp
from .lineages.transforms import eval_preprocess
from .seal import sealed
from .shapes import misfits, shown

FORMAT_VERSION = 1
KEY = "mlp_mixer"


@dataclass(frozen=True)
class Checkpoint:
    """Holds a model and what is needed to use it.

    Attributes:
        model: The network.
        preprocess: How an image becomes its input.
        labels: The names of the classes in the order of the logits, if they are known.
        provenance: Where the weights come from, as JSON values.
    """

    model: IsotropicMlp
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The scores from which on a class is answered, one for each class.

        None where an image has one class. The validation images chose them, as
        `evaluation.multilabel.choose_thresholds` says.

        Raises:
            UserError: The provenance has something else in their place.
        """
        given = self.provenance.get("thresholds")
        if given is None:
            return None
        is_list = isinstance(given, (list, tuple))
        if not is_list or not all(type(value) in (int, float) for value in given):
            raise UserError(
                "this checkpoint's thresholds are no numbers: its provenance is broken"
            )
        if len(given) != self.model.num_classes:
            raise UserError(
                f"this checkpoint has {len(given)} thresholds for "
                f"{self.model.num_classes} classes: its provenance is broken"
            )
        return tuple(map(float, given))


@dataclass(frozen=True)
class StoredWeights:
    """Holds a checkpoint before a network is built.

    Attributes:
        config: The architecture.
        tensors: The tensors under our names, in the dtype they were stored in.
        preprocess: How an image becomes the network's input.
        labels: The names of the classes in the order of the logits, if they are known.
        provenance: Where the weights come from, as JSON values.
        lineage: The lineage of the file, or "native".
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
        model: IsotropicMlp,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> StoredWeights:
        """Return the weights of a model as it is now.

        Args:
            model: The network, on any device.
            preprocess: How an image becomes its input; the paper's range by default.
            labels: One name per class.
            provenance: JSON values about the origin of the weights.
        """
        tensors = {}
        for name, tensor in model.state_dict().items():
            tensors[name] = tensor.detach().cpu().contiguous()
        if preprocess is None:
            config = model.config
            preprocess = eval_preprocess("paper", config.image_size, config.in_channels)
        names = None if labels is None else tuple(labels)
        origin = dict(provenance or {})
        return cls(model.config, tensors, preprocess, names, origin, "native")

    def build(self) -> Checkpoint:
        """Return the network in evaluation mode, fp32 on the CPU, as a checkpoint."""
        # On the meta device nothing is initialised only to be overwritten, and
        # assign=True takes the file's tensors without another copy.
        with torch.device("meta"):
            model = build_network(self.config)
        tensors = {name: t.to(torch.float32) for name, t in self.tensors.items()}
        model.load_state_dict(tensors, strict=True, assign=True)
        model.requires_grad_(True).eval()
        return Checkpoint(model, self.preprocess, self.labels, self.provenance)


@dataclass(frozen=True)
class _Header:
    """Holds what the metadata of version 1 says."""

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
    model: IsotropicMlp,
    *,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a native checkpoint atomically.

    Args:
        path: The file to write, usually `*.safetensors`.
        model: The network; its tensors keep their dtype.
        preprocess: How images become the model's input; the default is the paper's
            range [-1, 1] at the model's size.
        labels: One name per class.
        provenance: JSON values about the origin of the weights.

    Returns:
        The path.

    Raises:
        UserError: The labels do not fit the model, or the file cannot be written.
    """
    stored = StoredWeights.of(model, preprocess, labels, provenance)
    write_bytes(path, _parts(stored))
    return Path(path)


def native_bytes(stored: StoredWeights) -> bytes:
    """Return a native checkpoint as bytes; the tensors keep their dtype.

    Args:
        stored: The weights.

    Raises:
        UserError: The labels do not fit the architecture.
    """
    return b"".join(_parts(stored))


def _parts(stored: StoredWeights) -> list[bytes | memoryview]:
    text = json.dumps(description(stored), ensure_ascii=False)
    return sealed(stored.tensors, {KEY: text})


def fingerprint(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that change with any weight or name of a network.

    Args:
        model: Any network, on any device.
    """
    # Saved states and unfinished answer files hold these digits: keep names and order.
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(name.encode())
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def description(stored: StoredWeights) -> dict[str, Any]:
    """Return the JSON that stands beside the tensors.

    Args:
        stored: The weights.

    Raises:
        UserError: The labels do not fit the architecture.
    """
    config = config_to_dict(stored.config)
    header = _Header(config, stored.preprocess, stored.labels, stored.provenance)
    return to_dict(header)


def read_native(
    described: Mapping[str, Any], tensors: dict[str, Tensor], source: str
) -> StoredWeights:
    """Check a description and its tensors against each other.

    Args:
        described: The JSON that `description` wrote.
        tensors: The tensors beside it.
        source: The file, for the errors.

    Returns:
        The weights.

    Raises:
        UserError: The version or the description is not one of ours, or a tensor does
            not fit; every such tensor is listed.
    """
    version = described.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{source} has checkpoint format {version!r}, this version of mlp-mixer "
            f"reads up to {FORMAT_VERSION}; install a newer mlp-mixer"
        )
    try:
        header = from_dict(_Header, described)
        config = config_from_dict(header.config)
        problems = misfits(config, tensors)
    except (UserError, RuntimeError, OverflowError, TypeError) as error:
        # RuntimeError and OverflowError are torch's, for sizes that no memory has.
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} has a broken description: {reason}") from error
    if problems:
        raise UserError(f"{source} does not fit its architecture: {shown(problems)}")
    return StoredWeights(
        config, tensors, header.preprocess, header.labels, header.provenance, "native"
    )


@contextlib.contextmanager
def opened(path: Path, key: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Open a safetensors file that this package wrote.

    Args:
        path: The file.
        key: The metadata key that holds our JSON.

    Yields:
        The JSON object, and the open file.

    Raises:
        UserError: The file is damaged, or another program wrote it.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata[key]) if key in metadata else None
            if not isinstance(header, dict):
                raise UserError(
                    f"{str(path)!r} is a safetensors file, but not one written by "
                    f"mlp-mixer (no {key!r} metadata)"
                )
            yield header, file
    except UserError:
        raise
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{str(path)!r} is damaged or no safetensors file ({error}); "
            "restore or retrain it"
        ) from error
