"""An index is mapped, not read, and nothing that it claims is believed."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from mlp_mixer.data import open_dataset
from mlp_mixer.data.shard_index import write_index


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offset", 2**63, "points beyond its shards"),
        ("offset", 10**7, "points beyond its shards"),
        ("size", 2**32 - 1, "points beyond its shards"),
        ("size", 0, "is damaged: its check sum is wrong"),
        ("shard", 2**32 - 1, "points beyond its shards"),
        (
            "label",
            3,
            "cannot use .*index.safetensors': labels go from 0 to 3 but there",
        ),
        ("label", 2**32 - 1, "labels go from 0 to 4294967295"),
        (
            "crc32",
            1,
            "'train/.*' in 'train/shard-.*' is damaged: its check sum is wrong",
        ),
    ],
)
def test_an_index_that_lies(out, refused, column, value, message):
    path = out / "train" / "index.safetensors"
    columns = safetensors.numpy.load(path.read_bytes())
    columns[column][4] = value
    path.write_bytes(safetensors.numpy.save(columns))
    refused(message)


def test_names_that_lie_cost_no_memory(out):
    path = out / "train" / "index.safetensors"
    columns = safetensors.numpy.load(path.read_bytes())
    columns["name_end"][4:6] = 2**63, 0
    path.write_bytes(safetensors.numpy.save(columns))
    train = open_dataset(f"shards:{out}").train
    assert train.name(5) == ""
    rest = len(columns["names"]) - int(columns["name_end"][3])
    assert len(train.name(4).encode()) == rest


def header(length: int) -> bytes:
    """The first bytes of an index: the length of its header."""
    return length.to_bytes(8, "little")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        header(2**60) + b"{}",
        header(2) + b"{}",
        header(2) + b"{}" + bytes(100),
        header(2) + b"[]" + bytes(100),
        header(2**16) + b"[" * 2**16 + bytes(9),
    ],
)
def test_an_index_that_is_none(out, refused, data):
    (out / "train" / "index.safetensors").write_bytes(data)
    refused("cannot read the index .*; copy it again, or delete the cache")


@pytest.mark.parametrize(
    "offsets", [[0, 2**60], [-8, 8], [8, 0], [0.5, 1], "ab", None, [0]]
)
def test_an_index_with_columns_elsewhere(out, refused, offsets):
    path = out / "train" / "index.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    record = json.loads(data[8:end])
    record["offset"]["data_offsets"] = offsets
    text = json.dumps(record).encode()
    path.write_bytes(header(len(text)) + text + data[end:])
    refused("cannot read the index")


def test_an_index_that_is_cut(out, refused):
    path = out / "train" / "index.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused("cannot read the index .* lies beyond its end")


def test_a_million_images_cost_little(tmp_path):
    """To open maps the index, and reads one column: the labels, as 8 bytes an image."""
    count = 1_000_000
    (tmp_path / "train").mkdir()
    columns = {}
    for name in ("offset", "size", "shard", "label"):
        columns[name] = np.zeros(count, "u4")
    path = tmp_path / "train" / "index.safetensors"
    write_index(path, columns, ("name" for _ in range(count)))
    file = {"name": "train/index.safetensors", "bytes": 0}
    split = {"images": count, "channels": 3, "size": None, "index": file, "shards": []}
    described = {
        "format_version": 1,
        "classes": ["a"],
        "splits": {"train": split, "test": split},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    tracemalloc.start()
    images = open_dataset(f"shards:{tmp_path}").train
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Two splits' labels are 16 MB. Each further column has 4 MB or 8 MB, and a list of
    # the names over 50 MB.
    assert peak < 18e6
    assert len(images) == count
    assert images.name(count - 1) == "name"
    assert len(pickle.dumps(images)) < 1000
