"""Keras files whose HDF5 tree lies are refused; honest ones are read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mlp_mixer import load

from ..small_files import BIAS_PATH, h5, refused

Change = Callable[[h5py.File], Any]


def replaced(data: Any = None, **options: Any) -> Change:
    """Another array in the place of the last one."""

    def change(file: h5py.File) -> None:
        del file[BIAS_PATH]
        file.create_dataset(BIAS_PATH, data=data, **options)

    return change


def virtual(file: h5py.File) -> None:
    del file[BIAS_PATH]
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(4,))
    file.create_virtual_dataset(BIAS_PATH, layout)


def linked(link: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[BIAS_PATH]
        file[BIAS_PATH] = link

    return change


def cyclic(file: h5py.File) -> None:
    file["layers/dense/inside"] = file["layers"]


def braided(file: h5py.File) -> None:
    """2^30 paths to one group."""
    group = file.create_group("last")
    for i in range(30):
        outer = file.create_group(f"group{i}")
        outer["left"] = outer["right"] = group
        group = outer


def crowded(file: h5py.File) -> None:
    for i in range(20_000):
        file.create_group(f"group{i}", track_order=False)


def overfull(file: h5py.File) -> None:
    """A chunk of 16 bytes that inflates to a megabyte."""
    replaced(shape=(4,), chunks=(4,), dtype="f4", compression="gzip")(file)
    file[BIAS_PATH].id.write_direct_chunk((0,), zlib.compress(bytes(2**20)))


TREES: dict[str, tuple[Change, str]] = {
    "a soft link": (
        linked(h5py.SoftLink("/layers/dense/vars/1")),
        f"links '{BIAS_PATH}' to elsewhere; only data insid",
    ),
    "a dangling link": (
        linked(h5py.SoftLink("/nowhere")),
        f"links '{BIAS_PATH}' to elsewhere",
    ),
    "an external link": (
        linked(h5py.ExternalLink("/etc/passwd", "/")),
        f"links '{BIAS_PATH}' to elsewhere",
    ),
    "a virtual array": (
        virtual,
        f"keeps '{BIAS_PATH}' compressed or in another file; save it plainly",
    ),
    "external storage": (
        replaced(shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]),
        f"keeps '{BIAS_PATH}' compressed or in another file",
    ),
    "gzip": (
        replaced(np.ones(4, np.float32), chunks=(4,), compression="gzip"),
        "compressed or in another file",
    ),
    "a gzip bomb": (overfull, f"keeps '{BIAS_PATH}' compressed or in another file"),
    "a filter": (
        replaced(np.ones(4, np.float32), chunks=(4,), fletcher32=True),
        "compressed or in another file",
    ),
    "an unknown filter": (
        replaced(
            shape=(4,),
            dtype="f4",
            chunks=(4,),
            compression=32123,
            allow_unknown_filter=True,
        ),
        "compressed or in another file",
    ),
    "itself": (cyclic, "nests deeper than any model does: damaged or a trap, refused"),
    "a braid": (braided, "nests deeper|lists more than 20,000 entries"),
    "a crowd": (crowded, "lists more than 20,000 entries, as no Mixer does"),
    "no data": (
        replaced(shape=(2**40,), dtype="f4"),
        r"bytes but claims to hold 4,398,\d\d\d,\d\d\d,\d\d\d: it is dam",
    ),
    "sizes beyond numbers": (
        replaced(shape=(2**32, 2**32), dtype="f4"),
        r"but claims to hold 73,786,976,294,838,\d\d\d",
    ),
    "text": (replaced(["a", "b", "c", "d"]), f"missing {BIAS_PATH}"),
    "a structure": (replaced(np.zeros(4, "f4,f4")), f"missing {BIAS_PATH}"),
    "references": (replaced([None] * 4, dtype=h5py.ref_dtype), f"missing {BIAS_PATH}"),
    "empty": (replaced(h5py.Empty("f4")), "holds object, expected numbers"),
    "no numbers": (
        replaced(np.zeros(0, np.float32)),
        f"stores {BIAS_PATH} without any number",
    ),
    "integers": (
        replaced(np.zeros(4, np.int32)),
        f"stores {BIAS_PATH} as int32, expected fp32",
    ),
    "long doubles": (
        replaced(np.zeros(4, np.longdouble)),
        f"{BIAS_PATH}' holds float128, expected numbers",
    ),
    "NaN": (
        replaced(np.full(4, np.nan)),
        f"NaN or infinite values in 1 of .* {BIAS_PATH}",
    ),
    "a group": (
        lambda file: linked(file["layers"])(file),
        "nests deeper than any model does",
    ),
    "a ResNet": (
        lambda file: [
            file.pop("layers"),
            file.create_dataset(
                "layers/conv2d/vars/0", data=np.ones((3, 3, 3, 4), "f4")
            ),
        ],
        "holds a convolutional network of Keras, such as a ResNet, not an MLP-Mixer",
    ),
    "an old ResNet": (
        lambda file: file.create_group("model_weights/conv1_conv"),
        "is Keras's old kind of .h5 file",
    ),
    "nothing": (lambda file: file.pop("layers"), "holds no tensors"),
    "odd names": (
        lambda file: file.create_dataset("layers/a\x1b[31m", data=np.ones(1, "f4")),
        r"names a tensor .*x1b",
    ),
}


@pytest.mark.parametrize("kind", ["h5", "keras"])
@pytest.mark.parametrize("name", TREES)
def test_an_hdf5_tree_that_lies(tmp_path: Path, name: str, kind: str) -> None:
    change, message = TREES[name]
    path = h5(tmp_path / "m.weights.h5", change)
    if kind == "keras":
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            archive.writestr(
                "config.json",
                '{"module": "os", "class_name": "system", "config": "false"}',
            )
            archive.write(path, "model.weights.h5")
        path = tmp_path / "m.keras"
    refused(path, message)


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f2"])
def test_hdf5_of_every_honest_dtype_is_read(tmp_path: Path, dtype: str) -> None:
    def change(file: h5py.File) -> None:
        replaced(np.arange(4).astype(dtype))(file)

    assert load(h5(tmp_path / "m.h5", change)).model.head.bias.tolist() == [0, 1, 2, 3]


def test_a_truncated_hdf5_file_is_refused(tmp_path: Path) -> None:
    data = h5(tmp_path / "m.h5").read_bytes()
    for length in (*range(8, 600, 31), len(data) // 2, len(data) - 1):
        (tmp_path / "m.h5").write_bytes(data[:length])
        refused(tmp_path / "m.h5", "damaged and cannot be read")
