"""A sharded dataset is the dataset it was made from."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.data.loader import Batch, EvalBatches, TrainBatches, stream
from mlp_mixer.data.shard_writer import write_shards
from mlp_mixer.data.shards import ShardSet, parse_bytes
from mlp_mixer.errors import UserError
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Augment

PREPROCESS = Preprocess((8, 6), crop_pct=1.0)
INCEPTION = Augment(crop="inception", flip=True)


def same(first: Batch, second: Batch) -> bool:
    names = [field.name for field in fields(Batch)]
    return all(torch.equal(getattr(first, n), getattr(second, n)) for n in names)


# The same dataset


def test_a_folder_and_its_shards_are_one_dataset(dataset, out, assert_same):
    assert_same(dataset, open_dataset(f"shards:{out}"))
    assert_same(dataset, open_dataset(str(out)))
    assert len(list(out.glob("train/*.tar"))) > 3


def test_a_flat_folder_holds_out_the_same_images(photos, tmp_path, assert_same):
    flat = open_dataset(str(photos / "train"), split_seed=3, test_fraction=0.3)
    out = tmp_path / "out"
    write_shards(flat, out, shard_bytes=13_000)
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "train"]
    opened = open_dataset(f"shards:{out}", split_seed=3, test_fraction=0.3)
    assert opened.held_out == (0.3, 3, "image")
    assert_same(flat, opened)


def test_val_beside_test(photos, tmp_path, assert_same):
    shutil.copytree(photos / "test", photos / "valid")
    three = open_dataset(f"folder:{photos}")
    done = write_shards(three, tmp_path / "out", shard_bytes=13_000)
    assert done.images == {"train": 23, "val": 7, "test": 7}
    assert_same(three, open_dataset(f"shards:{tmp_path / 'out'}"))


def test_tars_without_their_index_keep_pictures_and_labels(
    dataset, out, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    (out / "dataset.json").unlink()
    found = open_dataset(f"shards:{out}").train
    assert found.classes == ("0", "1", "2")
    pictures = []
    for images in (found, dataset.train):
        labels = images.labels.tolist()
        pixels = [images.image(index).tobytes() for index in range(23)]
        pictures.append(sorted(zip(labels, pixels, strict=True)))
    assert pictures[0] == pictures[1]


def test_names_that_are_no_utf8(tmp_path):
    folder = tmp_path / "photos"
    for number in range(4):
        path = folder / f"k{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(path)
    odd = os.fsdecode(bytes(folder / "k1") + b"/\xff.png")
    try:
        (folder / "k1" / "1.png").rename(odd)
    except OSError:
        pytest.skip("no such names on this file system")
    original = open_dataset(str(folder))
    write_shards(original, tmp_path / "out", shard_bytes=13_000)
    opened = open_dataset(f"shards:{tmp_path / 'out'}")
    assert opened.fingerprint() == original.fingerprint()


# Exact batches


def test_each_image_once_per_epoch_over_ranks_workers_and_restarts(out):
    """23 steps of 6 are six epochs of 23; three runs, each with other ranks and
    workers, and stopped in the middle of an epoch.
    """
    shards = open_dataset(f"shards:{out}").train
    alone = TrainBatches(shards, PREPROCESS, INCEPTION, batch_size=6, seed=5)
    seen = []
    for steps, world_size, workers in (
        (range(9), 3, 2),
        (range(9, 10), 1, 0),
        (range(10, 23), 2, 1),
    ):
        ranks = []
        for rank in range(world_size):
            mine = replace(alone, rank=rank, world_size=world_size)
            ranks.append(list(stream(mine, steps, workers=workers)))
        for batches in zip(*ranks, strict=True):
            seen.append(torch.cat([batch.indices for batch in batches]))
    order = torch.cat(seen).view(6, 23)
    assert torch.equal(order.sort(dim=1).values, torch.arange(23).expand(6, -1))
    assert len(order.unique(dim=0)) == 6


@pytest.fixture
def start_method(request) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start_method", ["fork", "spawn"], indirect=True)
def test_batches_are_those_of_the_folder_wherever_they_are_computed(
    dataset, out, start_method
):
    folder = TrainBatches(dataset.train, PREPROCESS, INCEPTION, batch_size=6, seed=5)
    shards = replace(folder, images=open_dataset(f"shards:{out}").train)
    for step, batch in enumerate(stream(shards, range(4), workers=1)):
        assert same(batch, folder[step])


def test_subsets(dataset, out):
    shards = open_dataset(f"shards:{out}").train
    parts = []
    for images in (shards, dataset.train):
        part = images.subset([20, 3, 3, 7, 0]).subset(np.array([4, 1, 0]))
        parts.append(part)
    mine, theirs = parts
    assert [mine.name(i) for i in range(3)] == [theirs.name(i) for i in range(3)]
    assert mine.labels.tolist() == theirs.labels.tolist()
    np.testing.assert_array_equal(mine.image(1), theirs.image(1))
    assert len(shards.subset([])) == 0
    for images in (shards, mine):
        with pytest.raises(IndexError):
            images.image(len(images))
    for outside in (23, -1):
        with pytest.raises(IndexError):
            shards.subset([outside])


def test_little_is_sent_to_a_worker(out):
    """The index stays on the disk; a subset sends four bytes an image."""
    shards = open_dataset(f"shards:{out}").train
    sent = pickle.dumps(shards)
    assert len(sent) < 1500
    again = pickle.loads(sent)
    assert again.name(22) == shards.name(22)
    part = pickle.loads(pickle.dumps(shards.subset(range(5, 20))))
    np.testing.assert_array_equal(part.image(3), shards.image(8))
    assert part._rows.dtype == np.uint32
    assert isinstance(shards._index["offset"].base.base, np.memmap)


# Damaged and missing files


def test_shards_that_are_cut_damaged_or_gone(out, dataset, refused, assert_same):
    path = out / "train" / "shard-000001.tar"
    data = path.read_bytes()
    length = len(data)
    path.write_bytes(data[:-512])
    refused(f"001.tar' has {length - 512} bytes, expected {length}: copy it again")
    path.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    refused("is damaged: its check sum is wrong")
    path.unlink()
    refused("cannot read the shard .*shard-000001.tar': No such file")
    path.write_bytes(data)
    assert_same(dataset, open_dataset(f"shards:{out}"))


def test_a_worker_hands_the_sentence_over(out):
    (out / "test" / "shard-000000.tar").unlink()
    batches = EvalBatches(open_dataset(f"shards:{out}").test, PREPROCESS, 2)
    with pytest.raises(UserError, match="cannot read the shard") as caught:
        list(stream(batches, range(3), workers=1))
    assert type(caught.value) is UserError


def test_an_image_that_is_damaged_is_named(out, monkeypatch):
    """Where the check sum agrees, the decoder finds it."""
    train = open_dataset(f"shards:{out}").train
    monkeypatch.setattr(ShardSet, "encoded", lambda self, index: b"none")
    message = f"{train.name(3)!r}: the image is not an image in a known format"
    with pytest.raises(UserError, match=message):
        train.image(3)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "absent", "absent.tar"):
        message = f"there are no shards in .*{place}"
        with pytest.raises(UserError, match=message):
            open_dataset(f"shards:{tmp_path / place}")
    message = "no path after the colon of .*expected shards:PATH"
    for spec in ("shards", "shards:"):
        with pytest.raises(UserError, match=message):
            open_dataset(spec)


def test_a_finished_set_describes_itself(out):
    described = json.loads(Path(out, "dataset.json").read_bytes())
    assert (described["source"], described["format_version"]) == ("folder:photos", 1)


# Sizes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1000", 1000),
        ("256MB", 256_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2KiB", 2048),
        ("1g", 10**9),
        ("0", 0),
    ],
)
def test_sizes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 PB", "1e9", "ten", "1" * 30])
def test_what_is_no_size(text):
    message = "cannot read the size .*: expected a number of bytes such as 256MB"
    with pytest.raises(UserError, match=message):
        parse_bytes(text)
