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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ..config import from_dict, json_values, to_dict
from ..errors import UserError
from ..files import PathLike, write_bytes
from ..images.preprocess import Preprocess
from ..models.as_built import plain_state
from ..models.base import NetworkConfig
from ..models.families import build_network, config_from_dict, config_to_dict
from ..models.isotropic import IsotropicMlp
from ..untrusted.text import parse_json
from .agreement import need_agreement
from .description import FORMAT_VERSION, Header
from .description import KEY as KEY
from .given_labels import GIVEN, GivenLabels, checked_labels, named_classes
from .lineages.transforms import eval_preprocess
from .lineages.translate import check_numbers
from .scores import checked_thresholds
from .seal import sealed
from .shapes import misfits, shown

# Endings of files that hold weights in another way.
_OTHER_KINDS = (
    *(".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar", ".pt2"),
    *(".npz", ".npy", ".h5", ".hdf5", ".keras", ".onnx", ".msgpack"),
)


@dataclass(frozen=True)
class Checkpoint:
    """Holds a model and what is needed to use it.

    Attributes:
        model: The network.
        preprocess: How an image becomes its input.
        labels: The names of the classes in the order of the logits, if they are known.
        provenance: Where the weights come from, as JSON values.

    Raises:
        UserError: The preprocessing makes other images than the model takes.
    """

    model: IsotropicMlp
    preprocess: Preprocess
    labels: tuple[str, ...] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need_agreement(self.preprocess, getattr(self.model, "config", None))

    def with_labels(self, labels: GivenLabels) -> Checkpoint:
        """Return the checkpoint with other names of its classes.

        Args:
            labels: In the order of the logits, as `load` takes them.

        Raises:
            UserError: The names cannot be read, or there is not one for each class.
        """
        names = named_classes(labels, self.model.num_classes)
        return replace(self, labels=names, provenance={**self.provenance, **GIVEN})

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes, one for each class that the model has now.

        Raises:
            UserError: There are more or fewer, as after `reset_classifier`.
        """
        classes = self.model.num_classes
        if self.labels is not None and len(self.labels) != classes:
            raise UserError(
                f"this checkpoint has {len(self.labels)} labels, and its model has "
                f"{classes} classes (was the classifier reset?): give labels for all of "
                "them, or None"
            )
        return self.labels

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The scores from which on a class is answered, one for each class.

        None where an image has one class. The validation images chose them, as
        `evaluation.multilabel.choose_thresholds` says.

        Raises:
            UserError: The provenance has something else in their place.
        """
        return checked_thresholds(self.provenance, self.model.num_classes)


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

    def __post_init__(self) -> None:
        need_agreement(self.preprocess, self.config)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        preprocess: Preprocess | None = None,
        labels: Sequence[str] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> StoredWeights:
        """Return the weights of a model as it is now.

        Args:
            model: The network, perhaps wrapped, on any device.
            preprocess: How an image becomes its input; the paper's range by default.
            labels: One name per class.
            provenance: Values about the origin of the weights, for JSON.

        Raises:
            UserError: The network would load as another one, or not at all, or the
                labels or the provenance are no such values.
        """
        config, found = plain_state(model)
        tensors = {}
        for name, tensor in found.items():
            if tensor.is_meta:
                raise UserError(
                    f"this network has no numbers yet ({name} is on the meta device); "
                    "fill it first, by load_state_dict(..., assign=True)"
                )
            tensors[name] = tensor.detach().cpu().contiguous()
        check_numbers(tensors, "this network")
        if preprocess is None:
            preprocess = eval_preprocess("paper", config.image_size, config.in_channels)
        names = None if labels is None else checked_labels(labels)
        origin = json_values(dict(provenance or {}), "provenance")
        return cls(config, tensors, preprocess, names, origin, "native")

    def with_labels(self, labels: GivenLabels) -> StoredWeights:
        """Return the weights with other names of their classes.

        Args:
            labels: In the order of the logits, as `load` takes them.

        Raises:
            UserError: The names cannot be read, or there is not one for each class.
        """
        names = named_classes(labels, self.config.num_classes)
        return replace(self, labels=names, provenance={**self.provenance, **GIVEN})

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


def save(
    path: PathLike,
    model: nn.Module,
    *,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a native checkpoint atomically.

    What `load` would refuse, or load as another network, is not written; a file that is
    there stays as it was then.

    Args:
        path: The file to write, `*.safetensors`.
        model: The network, perhaps wrapped (torch.compile, DataParallel, an average);
            its tensors keep their dtype.
        preprocess: How images become the model's input; the default is the paper's
            range [-1, 1] at the model's size.
        labels: One name per class.
        provenance: Values about the origin of the weights, for JSON.

    Returns:
        The path.

    Raises:
        UserError: The network is not what its configuration builds (another head, cut
            blocks, pruned, quantised, with adapters; the error names the call that
            helps), it holds NaN, the labels do not fit it, the path has the ending of
            another kind of file, or it cannot be written.
    """
    _check_ending(Path(path))
    stored = StoredWeights.of(model, preprocess, labels, provenance)
    write_bytes(path, _parts(stored))
    return Path(path)


def _check_ending(path: Path) -> None:
    """Refuse the endings of other kinds of files: their programs could not read it."""
    if path.suffix.lower() in _OTHER_KINDS:
        raise UserError(
            f"a native checkpoint is a .safetensors file, got {str(path)!r}; change its "
            "ending, or write another kind by `convert`"
        )


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
    header = Header(config, stored.preprocess, stored.labels, stored.provenance)
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
            f"reads up to {FORMAT_VERSION}; update this package"
        )
    try:
        header = from_dict(Header, described)
        config = config_from_dict(header.config)
        need_agreement(header.preprocess, config)
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
            header = parse_json(metadata[key]) if key in metadata else None
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
    ) as error:
        raise UserError(
            f"{str(path)!r} is damaged or no safetensors file ({error}); "
            "restore or retrain it"
        ) from error
