"""Keras weight files: HDF5 groups of float arrays.

They stand alone (`.weights.h5`) or in a `.keras` archive. Before Keras 3 a file had a
group for each layer, by the name that its author gave it, and in it the arrays under
the layer's name once more: `head/head/kernel:0`.
"""

from __future__ import annotations

import io
import itertools
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import h5py
import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from .contents import Contents, check_claim, check_number, to_numpy, to_torch

# The blocks stand in a Sequential of the network, of any number, or in itself.
_BLOCK = re.compile(r"^(layers/)(?:sequential(?:_\d+)?/layers/)?(mlp_mixer_layer)")
# What training and augmentation keep beside the weights.
_BESIDE = re.compile(
    r"^(optimizer|metrics|compile)|seed_generator|/(random_|dropout|resizing|rescaling)"
)
_NORMALIZATION = re.compile(r"/normalization(?:_\d+)?/vars/(\d)$")
# The variables of a Normalization layer by their number.
_STATISTICS = ("mean", "variance", "count")

# In the names that keras_cv_attention_models gives to the layers of a Mixer.
_NAMED_BLOCK = "/token_mixing/"

_DEEPEST = 32


def read_hdf5(file: BinaryIO, source: str, size: int) -> Contents:
    """Read every float array, under the names of the plain Keras example.

    Augmentation and optimiser are left out. The statistics of a Normalization layer
    become `metadata["mean"]` and `["variance"]`, on the scale of the pixels.

    Args:
        file: The HDF5 file.
        source: Its path, for the errors.
        size: Its bytes.

    Returns:
        Tensors and metadata.

    Raises:
        UserError: It holds links, data in other files, compression (which a bomb
            needs), or sizes that cannot be.
    """
    _check_heaps(file, source)
    arrays: dict[str, h5py.Dataset] = {}
    with h5py.File(file, "r") as root:
        _collect(root, "", arrays, source, itertools.count(1))
        if "layer_names" in root.attrs or "model_weights" in root:
            arrays = _by_layer(arrays, source)
        check_claim(source, sum(array.nbytes for array in arrays.values()), size)
        found = {}
        for key, array in arrays.items():
            # [()] gives a scalar as a number, not as an array without axes.
            values = np.asarray(array[()]).reshape(array.shape)
            found[key] = to_torch(values, f"{source}: {key!r}")
    return _sorted_out(found, source)


def _by_layer(
    arrays: Mapping[str, h5py.Dataset], source: str
) -> dict[str, h5py.Dataset]:
    """Return the arrays of Keras's old kind of file as layer and leaf: `head/kernel`."""
    named: dict[str, h5py.Dataset] = {}
    for path, array in arrays.items():
        # A whole model is saved with its optimiser beside its weights.
        if path.startswith("optimizer_weights/"):
            continue
        *layer, leaf = path.removeprefix("model_weights/").split("/")
        half = len(layer) // 2
        if layer[:half] == layer[half:]:
            layer = layer[:half]
        name = "/".join((*layer, leaf.partition(":")[0]))
        if name in named:
            raise UserError(f"{source} holds two arrays of the name {name[:80]!r}")
        named[name] = array
    # Only layers with names of their own tell where they belong.
    if not any(_NAMED_BLOCK in name for name in named):
        raise UserError(
            f"{source} is Keras's old kind of .h5 file; load it in Keras and save it as "
            "a .keras file (of the old kind only Mixers of keras_cv_attention_models "
            "are read)"
        )
    return named


def _sorted_out(found: Mapping[str, Tensor], source: str) -> Contents:
    """Tell weights, statistics of the pixels, and everything else apart."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for key, tensor in found.items():
        if statistic := _NORMALIZATION.search(key):
            name = _STATISTICS[min(int(statistic[1]), 2)]
            metadata[name] = tensor.flatten().tolist()
            continue
        if _BESIDE.search(key):
            continue
        plain = _BLOCK.sub(r"\1sequential/layers/\2", key)
        if plain in tensors:
            raise UserError(
                f"{source} keeps blocks in several places ({key!r}), expected one stack "
                "of them"
            )
        tensors[plain] = tensor
    left_out = len(found) - len(tensors) - len(metadata)
    notes = (f"{left_out} arrays beside the weights left out",) if left_out else ()
    return Contents(tensors, "h5", metadata, notes)


def _check_heaps(file: BinaryIO, source: str) -> None:
    """Refuse a free list of a group's names that leads back to itself.

    libhdf5 (1.14 and 2.0) would follow it for ever, taking memory.
    """
    with _bytes_of(file) as data:
        # The superblock says how many bytes an offset and a length have, and where
        # the file begins. Keras always writes 8, 8 and 0.
        version = data[8]
        sizes = data[9:11] if version > 1 else data[13:15]
        base = 12 if version > 1 else 24 + 4 * version
        if sizes != b"\x08\x08" or any(data[base : base + 8]):
            raise UserError(
                f"{source} counts in an unusual way, as Keras does not: damaged or a "
                "trap, refused"
            )
        seen: set[int] = set()
        for heap in re.finditer(rb"HEAP\0", data):
            length, block, start = struct.unpack_from("<QQQ", data, heap.start() + 8)
            _follow_free_list(data, length, block, start, seen, source)


def _bytes_of(file: BinaryIO) -> Any:
    """Return a file's bytes without copying them."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _follow_free_list(
    data: Any, length: int, block: int, start: int, seen: set[int], source: str
) -> None:
    """Walk one heap's free list; where it leaves the heap, libhdf5 sees the damage."""
    while block + 16 <= length and start + length <= len(data):
        if start + block in seen:
            raise UserError(
                f"{source} has a list of free space without end: damaged or a trap, "
                "refused"
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
    """Gather the float arrays of a group and its groups; links are refused."""
    for key in group:
        path = f"{prefix}{key}"
        # Counted by visits, not by objects: hard links can braid 30 groups into 2**30
        # paths, or make a group its own member.
        check_number(source, next(visits))
        if path.count("/") > _DEEPEST:
            raise UserError(
                f"{source} nests deeper than any model does: damaged or a trap, refused"
            )
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise UserError(
                f"{source} links {path!r} to elsewhere; only data inside the file is "
                "read"
            )
        item = group[key]
        if isinstance(item, h5py.Group):
            _collect(item, f"{path}/", arrays, source, visits)
        elif isinstance(item, h5py.Dataset) and _is_numbers(item):
            if _is_indirect(item):
                raise UserError(
                    f"{source} keeps {path!r} compressed or in another file; save it "
                    "plainly"
                )
            arrays[path] = item


def _is_numbers(item: h5py.Dataset) -> bool:
    return item.dtype.kind in "fiu" or _is_bfloat16(item)


def _is_bfloat16(item: h5py.Dataset) -> bool:
    # HDF5 has no such number: Keras stores two opaque bytes, and an attribute says so.
    return item.dtype == "V2" and item.attrs.get("dtype") == "bfloat16"


def _is_indirect(item: h5py.Dataset) -> bool:
    """Tell whether the numbers are in other files, or pass through a filter."""
    if item.external or item.is_virtual:
        return True
    return item.id.get_create_plist().get_nfilters() > 0


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return an HDF5 file of these arrays, as Keras's `load_weights` takes it.

    Args:
        tensors: The tensors by their path in the file.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as root:
        if any(_NAMED_BLOCK in name for name in tensors):
            tensors = _write_layers(root, tensors)
        for name, tensor in tensors.items():
            dataset = root.create_dataset(name, data=to_numpy(tensor))
            if tensor.dtype == torch.bfloat16:
                dataset.attrs["dtype"] = "bfloat16"
        # Of the network itself: empty, but Keras before 3.4 does not do without it.
        root.create_group("vars")
    return buffer.getvalue()


def _write_layers(root: h5py.File, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Describe layers as Keras did before version 3, for its `load_weights`.

    Returns:
        The tensors by their paths in such a file.
    """
    leaves: dict[str, list[str]] = {}
    for name in tensors:
        layer, _, leaf = name.rpartition("/")
        leaves.setdefault(layer, []).append(f"{layer}/{leaf}:0")
    root.attrs["layer_names"] = [layer.encode() for layer in leaves]
    root.attrs["backend"] = b"tensorflow"
    for layer, names in leaves.items():
        group = root.create_group(layer)
        group.attrs["weight_names"] = [name.encode() for name in names]
    return {
        f"{name.rpartition('/')[0]}/{name}:0": tensor
        for name, tensor in tensors.items()
    }
