"""Small checkpoint files, honest ones and parts of others, which several tests share."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from mlp_mixer import Checkpoint, MixerConfig, UserError, load
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES

from .networks import random_tensors

CONFIG = MixerConfig(2, 3, 6, 5, 7, image_size=(8, 8), num_classes=4, gelu="erf")


def state(
    name_of_lineage: str = "timm", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A small Mixer's tensors under a lineage's names."""
    lineage = LINEAGES[name_of_lineage]
    config = dataclasses.replace(CONFIG, final_norm=lineage.final_norm)
    # Always the same numbers, so that two calls give equal files.
    ours = random_tensors(
        config,
        shared_norm=name_of_lineage == "keras",
        generator=torch.Generator().manual_seed(0),
    )
    theirs = translate.to_theirs(config, ours, lineage)
    return {name: tensor.to(dtype) for name, tensor in theirs.items()}


def arrays(lineage: str = "google") -> dict[str, Any]:
    """As `state`, for NumPy."""
    return {name: tensor.numpy() for name, tensor in state(lineage).items()}


def refused(path: Path, message: str | None = None) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 2500
    return sentence


def same(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """The network holds these tensors (timm's names)."""
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, tensors[name].float()), name


class Trap:
    """Something whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def saved(value: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Any], bytes]] = {
    "zip": lambda value: saved(value),
    "legacy": lambda value: saved(value, _use_new_zipfile_serialization=False),
    "protocol 4": lambda value: saved(value, pickle_protocol=4),
    "pickle": lambda value: pickle.dumps(value, protocol=5),
}


def zipped(opcodes: bytes, members: dict[str, bytes] | None = None) -> bytes:
    """An archive as torch.save writes it, around a pickle (protocol 2) written by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + opcodes)
        for name, data in (members or {}).items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def text(value: str) -> bytes:
    """The opcode for a str."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tensor(
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    shape: str = "K\x04\x85",
    strides: str = "K\x01\x85",
) -> bytes:
    """The opcodes for a float tensor; shape and strides are opcodes too."""
    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", numel)
    )
    view = (
        b"J"
        + struct.pack("<i", offset)
        + shape.encode("latin1")
        + strides.encode("latin1")
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + view + b"\x89}tR"


def holding(*values: bytes) -> bytes:
    """The opcodes for a dict of these values under the names w0, w1, ..."""
    return (
        b"}("
        + b"".join(text(f"w{i}") + value for i, value in enumerate(values))
        + b"u."
    )


FLOATS = np.ones(4, np.float32).tobytes()


ONE = {"data/0": FLOATS}


def npy(array: Any, version: tuple[int, int] | None = None, **header: Any) -> bytes:
    """An array as NumPy writes it; `header` fields replace the true ones."""
    buffer = io.BytesIO()
    if header:
        fields = {
            "descr": array.dtype.str,
            "fortran_order": False,
            "shape": array.shape,
        } | header
        line = (str(fields) + " " * 20 + "\n").encode()
        return (
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + array.tobytes()
        )
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def npz(path: Path, members: dict[str, Any], **options: Any) -> Path:
    """An archive of arrays, or of whatever bytes."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, member in members.items():
            archive.writestr(
                f"{name}.npy", member if isinstance(member, bytes) else npy(member)
            )
    return path


BIAS = np.ones(4, np.float32)


def h5(
    path: Path, change: Callable[[h5py.File], Any] | None = None, **options: Any
) -> Path:
    """A file of Keras with a change."""
    with h5py.File(path, "w", **options) as file:
        for name, array in arrays("keras").items():
            file[name] = array
        if change:
            change(file)
    return path


BIAS_PATH = "layers/dense_1/vars/1"
