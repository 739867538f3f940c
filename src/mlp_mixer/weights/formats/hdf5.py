"""Keras weight files: HDF5 groups of float arrays, alone (`.weights.h5`) or in a
`.keras` archive.
"""

from __future__ import annotations

import io
import itertools
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import h5py
import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from .contents import Contents, check_claim, check_number, to_numpy, to_torch

_BLOCK = re.compile(r"^(layers/)(?:sequential(?:_\d+)?/layers/)?(mlp_mixer_layer)")
_BESIDE = re.compile(
    r"^(optimizer|metrics|compile)|seed_generator|/(random_|dropout|resizing|rescaling)"
)
_NORMALIZATION = re.compile(r"/normalization(?:_\d+)?/vars/(\d)$")


def read_hdf5(file: BinaryIO, source: str, size: int) -> Contents:
    """Every float array by its path, under the names of the plain example (augmentation
    and optimiser left out).

    The statistics of a Normalization layer become `metadata["mean"]` and
    `["variance"]`, on the scale of the pixels. Raises `UserError` for links, data in
    other files, compression (which a bomb needs), and sizes that cannot be.
    """
    arrays: dict[str, h5py.Dataset] = {}
    _check_heaps(file, source)
    with h5py.File(file, "r") as root:
        if "layer_names" in root.attrs or "model_weights" in root:
            raise UserError(
                f"{source} is Keras's old kind of .h5 file; load it in Keras and save it as a .keras file"
            )
        _collect(root, "", arrays, source, itertools.count(1))
        check_claim(source, sum(array.nbytes for array in arrays.values()), size)
        found = {}
        for key, array in arrays.items():  # [()] gives a scalar no axes and no array
            found[key] = to_torch(
                np.asarray(array[()]).reshape(array.shape), f"{source}: {key!r}"
            )
    tensors = {}
    metadata = {}
    for key, tensor in found.items():
        if statistic := _NORMALIZATION.search(key):
            metadata[("mean", "variance", "count")[min(int(statistic[1]), 2)]] = (
                tensor.flatten().tolist()
            )
        elif not _BESIDE.search(key):
            plain = _BLOCK.sub(r"\1sequential/layers/\2", key)
            if plain in tensors:
                raise UserError(
                    f"{source} keeps blocks in several places ({key!r}), expected one stack of them"
                )
            tensors[plain] = tensor
    left_out = len(found) - len(tensors) - len(metadata)
    return Contents(
        tensors,
        "h5",
        metadata,
        (f"{left_out} arrays beside the weights left out",) if left_out else (),
    )


def _check_heaps(file: BinaryIO, source: str) -> None:
    """libhdf5 (1.14 and 2.0) follows the free list of a group's names for ever, taking
    memory, if it bites its tail.
    """
    data = (
        file.getbuffer()
        if isinstance(file, io.BytesIO)
        else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    )
    with data:
        version = data[8]
        sizes, base = (
            (data[9:11], 12) if version > 1 else (data[13:15], 24 + 4 * version)
        )
        if sizes != b"\x08\x08" or any(data[base : base + 8]):
            raise UserError(
                f"{source} counts in an unusual way, as Keras does not: damaged or a trap, refused"
            )
        seen = set()
        for heap in re.finditer(rb"HEAP\0", data):
            length, block, start = struct.unpack_from("<QQQ", data, heap.start() + 8)
            while block + 16 <= length and start + length <= len(
                data
            ):  # else libhdf5 sees the damage itself
                if start + block in seen:
                    raise UserError(
                        f"{source} has a list of free space without end: damaged or a trap, refused"
                    )
                seen.add(start + block)
                (block,) = struct.unpack_from("<Q", data, start + block)


def _collect(
    group: h5py.Group,
    prefix: str,
    arrays: dict[str, h5py.Dataset],
    source: str,
    visits: Iterator[int],
) -> None:
    for key in group:
        path = f"{prefix}{key}"
        check_number(source, next(visits))
        if path.count("/") > 32:
            raise UserError(
                f"{source} nests deeper than any model does: damaged or a trap, refused"
            )
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise UserError(
                f"{source} links {path!r} to elsewhere; only data inside the file is read"
            )
        item = group[key]
        if isinstance(item, h5py.Group):
            _collect(item, f"{path}/", arrays, source, visits)
        elif isinstance(item, h5py.Dataset) and (
            item.dtype.kind in "fiu" or _is_bfloat16(item)
        ):
            if (
                item.external
                or item.is_virtual
                or item.id.get_create_plist().get_nfilters()
            ):
                raise UserError(
                    f"{source} keeps {path!r} compressed or in another file; save it plainly"
                )
            arrays[path] = item


def _is_bfloat16(item: h5py.Dataset) -> bool:
    """Two opaque bytes: HDF5 has no such number, and Keras says in an attribute what
    they are.
    """
    return item.dtype == "V2" and item.attrs.get("dtype") == "bfloat16"


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """An HDF5 file of these arrays, as Keras's `load_weights` takes it."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as root:
        for name, tensor in tensors.items():
            dataset = root.create_dataset(name, data=to_numpy(tensor))
            if tensor.dtype == torch.bfloat16:
                dataset.attrs["dtype"] = "bfloat16"
        root.create_group(
            "vars"
        )  # of the network itself: empty, but Keras before 3.4 wants it
    return buffer.getvalue()
