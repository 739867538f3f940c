"""A Mixer in NumPy: answers for a few pictures in less time than torch takes to begin.

It reads what `models/mixer.py` describes from a native checkpoint, and leaves whatever
is not plain to torch: other families, other lineages, other dtypes, damaged files.
Axes: B batch, S tokens, C channels (hidden), P patch side, D_S and D_C the hidden
widths, K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors

from ..choices import DropPathRule, Gelu
from ..config import from_dict
from ..errors import UserError
from ..files import PathLike
from ..weights import catalog
from ..weights.description import FORMAT_VERSION, KEY, Header
from ..weights.seal import check_sum
from .light_checkpoint import Array, LightCheckpoint, NeedsTorchError

_MOST_BYTES = 64 * 2**20  # of a file; torch reads a larger one in the time of its start
_LONGEST_HEADER = 4 * 2**20  # bytes
_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))


@dataclass(frozen=True)
class MixerFields:
    """The fields of `models.mixer.MixerConfig`, which needs torch."""

    patch_size: int
    num_blocks: int
    hidden_dim: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    gelu: Gelu = "tanh"
    dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_rule: DropPathRule = "paper"
    norm_eps: float = 1e-6
    final_norm: bool = True

    def __post_init__(self) -> None:
        sides = (*self.image_size, self.hidden_dim, self.tokens_mlp_dim)
        counts = (self.channels_mlp_dim, self.num_blocks, self.in_channels)
        if min(*sides, *counts, self.patch_size, self.num_classes) < 1:
            raise NeedsTorchError("a size of the network is below 1")
        if any(side % self.patch_size for side in self.image_size):
            raise NeedsTorchError("patches do not divide the image")
        if not 0 < self.norm_eps < 1:
            raise NeedsTorchError("the epsilon of its norms is not between 0 and 1")

    @property
    def num_patches(self) -> int:
        """S, the number of tokens."""
        height, width = self.image_size
        return (height // self.patch_size) * (width // self.patch_size)

    @property
    def multiply_adds(self) -> int:
        """Of one image, without biases and norms."""
        stem = (
            self.num_patches * self.hidden_dim * self.in_channels * self.patch_size**2
        )
        widths = self.tokens_mlp_dim + self.channels_mlp_dim
        block = 2 * self.num_patches * self.hidden_dim * widths
        return stem + self.num_blocks * block + self.hidden_dim * self.num_classes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, in the order of torch's `state_dict`."""
        C = self.hidden_dim
        P = self.patch_size
        shapes: dict[str, tuple[int, ...]] = {
            "stem.proj.weight": (C, self.in_channels, P, P),
            "stem.proj.bias": (C,),
        }
        for i in range(self.num_blocks):
            block = f"blocks.{i}"
            _norm(shapes, f"{block}.norm1", C)
            _mlp(shapes, f"{block}.mlp_tokens", self.num_patches, self.tokens_mlp_dim)
            _norm(shapes, f"{block}.norm2", C)
            _mlp(shapes, f"{block}.mlp_channels", C, self.channels_mlp_dim)
        if self.final_norm:
            _norm(shapes, "norm", C)
        _linear(shapes, "head", C, self.num_classes)
        return shapes


def _norm(shapes: dict[str, tuple[int, ...]], name: str, width: int) -> None:
    shapes[f"{name}.weight"] = (width,)
    shapes[f"{name}.bias"] = (width,)


def _linear(
    shapes: dict[str, tuple[int, ...]], name: str, width: int, out: int
) -> None:
    shapes[f"{name}.weight"] = (out, width)
    shapes[f"{name}.bias"] = (out,)


def _mlp(
    shapes: dict[str, tuple[int, ...]], name: str, width: int, hidden: int
) -> None:
    _linear(shapes, f"{name}.fc1", width, hidden)
    _linear(shapes, f"{name}.fc2", hidden, width)


class NumpyMixer:
    """Map images (B, in_channels, H, W) to logits (B, K), in float32."""

    def __init__(self, fields: MixerFields, tensors: Mapping[str, Array]) -> None:
        """Take the weights.

        Args:
            fields: The architecture.
            tensors: As `fields.shapes()` says.
        """
        self.fields = fields
        self._tensors = {name: t.astype(np.float32) for name, t in tensors.items()}
        self._gelu = gelu_tanh if fields.gelu == "tanh" else gelu_erf

    def __call__(self, image_BCHW: Array) -> Array:
        """Return the logits of normalised images, float32."""
        x_BSC = self._stem(image_BCHW)
        for i in range(self.fields.num_blocks):
            block = f"blocks.{i}"
            mixed_BSC = self._norm(x_BSC, f"{block}.norm1")
            x_BSC = x_BSC + self._mix_tokens(mixed_BSC, f"{block}.mlp_tokens")
            mixed_BSC = self._norm(x_BSC, f"{block}.norm2")
            x_BSC = x_BSC + self._mix_channels(mixed_BSC, f"{block}.mlp_channels")
        if self.fields.final_norm:
            x_BSC = self._norm(x_BSC, "norm")
        return self._linear(x_BSC.mean(axis=1), "head")

    def _stem(self, image_BCHW: Array) -> Array:
        """Cut images into patches and map each to C channels: (B, S, C)."""
        P = self.fields.patch_size
        batch, channels, height, width = image_BCHW.shape
        grid = (height // P, width // P)
        parts = image_BCHW.reshape(batch, channels, grid[0], P, grid[1], P)
        patches = parts.transpose(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * P * P)
        kernel = self._tensors["stem.proj.weight"]
        flat = kernel.reshape(len(kernel), -1)
        return np.asarray(patches @ flat.T + self._tensors["stem.proj.bias"])

    def _mix_tokens(self, x_BSC: Array, name: str) -> Array:
        """Mix each channel across positions, without a transpose: W x instead of x W'."""
        tensors = self._tensors
        first = tensors[f"{name}.fc1.weight"] @ x_BSC
        hidden = self._gelu(first + tensors[f"{name}.fc1.bias"][:, None])
        second = tensors[f"{name}.fc2.weight"] @ hidden
        return np.asarray(second + tensors[f"{name}.fc2.bias"][:, None])

    def _mix_channels(self, x_BSC: Array, name: str) -> Array:
        hidden = self._gelu(self._linear(x_BSC, f"{name}.fc1"))
        return self._linear(hidden, f"{name}.fc2")

    def _linear(self, x: Array, name: str) -> Array:
        weight = self._tensors[f"{name}.weight"]
        return np.asarray(x @ weight.T + self._tensors[f"{name}.bias"])

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + np.float32(self.fields.norm_eps))
        return np.asarray(
            scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
        )


def gelu_tanh(x: Array) -> Array:
    """Return the tanh form of GELU, as the paper's code computes it."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)))


def gelu_erf(x: Array) -> Array:
    """Return the exact form of GELU."""
    return np.asarray(np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5)))))


# Abramowitz and Stegun 7.1.26: to 1.5e-7, about the rounding of float32. NumPy has no
# erf of its own.
_SLOPE = np.float32(0.3275911)
_POLYNOMIAL = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def erf(x: Array) -> Array:
    """Return the error function of float32 numbers, to 5e-7."""
    size = np.abs(x)
    t = 1 / (1 + _SLOPE * size)
    total = np.zeros_like(t)
    for factor in _POLYNOMIAL:
        total = (total + np.float32(factor)) * t
    return np.copysign(1 - total * np.exp(-size * size), x)


def read_mixer(source: PathLike) -> LightCheckpoint:
    """Read a native checkpoint of a Mixer.

    Args:
        source: A file, the folder of a run, or the name of bundled weights.

    Raises:
        NeedsTorchError: It is something else, large, or in doubt: torch's reader has the
            words for what is wrong.
    """
    path = _file_of(source)
    try:
        header, tensors = _read(path)
        fields = from_dict(MixerFields, header.config)
    except NeedsTorchError:
        raise
    # What is damaged is named by the reader that knows all kinds of damage.
    except (
        *(UserError, safetensors.SafetensorError, OSError),
        *(KeyError, TypeError, RecursionError, ValueError, OverflowError),
    ) as error:
        raise NeedsTorchError(f"it is no plain native checkpoint ({error})") from error
    _check(fields, header, tensors)
    return LightCheckpoint(
        NumpyMixer(fields, tensors),
        header.preprocess.array,
        fields.num_classes,
        header.preprocess,
        header.labels,
        header.provenance,
        "numpy",
        _fingerprint(fields, tensors),
        fields.multiply_adds,
    )


def _file_of(source: PathLike) -> Path:
    """Return the file, if it is on this machine: a path first, then a bundled name."""
    name = os.fspath(source)
    # os.path asks: it never raises, whatever a name contains.
    if os.path.isdir(name):  # noqa: PTH112
        name = os.path.join(name, "best.safetensors")  # noqa: PTH118
    elif not os.path.exists(name):  # noqa: PTH110
        record = catalog.find(str(name))
        if record is not None and record.lineage == "native":
            return catalog.bundled_path(record)
    if not os.path.isfile(name):  # noqa: PTH113
        raise NeedsTorchError("it is no file or run on this machine")
    return Path(name)


def _read(path: Path) -> tuple[Header, dict[str, Array]]:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise NeedsTorchError(f"it has more than {_MOST_BYTES >> 20} MiB")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(size, _LONGEST_HEADER):
        raise NeedsTorchError("it is no safetensors file")
    with safetensors.safe_open(path, framework="np") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    header = from_dict(Header, json.loads(metadata[KEY]))
    check_sum(metadata, sorted(tensors.items()), repr(str(path)))
    return header, tensors


def _check(fields: MixerFields, header: Header, tensors: dict[str, Array]) -> None:
    if header.format_version != FORMAT_VERSION:
        raise NeedsTorchError("its format is newer")
    preprocess = header.preprocess
    size = (preprocess.channels, *preprocess.image_size)
    if size != (fields.in_channels, *fields.image_size):
        raise NeedsTorchError("its preprocessing makes another size")
    # Before shapes are listed: a file of a few bytes may claim a billion blocks.
    if fields.num_blocks > len(tensors):
        raise NeedsTorchError("it lacks blocks")
    if {name: tensor.shape for name, tensor in tensors.items()} != fields.shapes():
        raise NeedsTorchError("its tensors are not those of its architecture")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or not np.isfinite(tensor).all():
            raise NeedsTorchError(f"{name} holds no finite fp16 or fp32 numbers")


def _fingerprint(fields: MixerFields, tensors: Mapping[str, Array]) -> str:
    """Return what `weights.checkpoint.fingerprint` does of the same network."""
    digest = hashlib.sha256()
    for name in fields.shapes():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], np.float32).data)
    return digest.hexdigest()[:16]
