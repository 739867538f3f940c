"""A sharded set is the set it was made from; writing it survives any stop; nothing it
claims is believed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from filelock import FileLock
from PIL import Image

from mlp_mixer.data import Dataset, open_dataset
from mlp_mixer.data.loader import Batch, EvalBatches, TrainBatches, stream
from mlp_mixer.data.shard_writer import Written, write_shards
from mlp_mixer.data.shards import ShardSet, parse_bytes
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import Part
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Augment

PREPROCESS = Preprocess((8, 6), crop_pct=1.0)
INCEPTION = Augment(crop="inception", flip=True)


def picture(path: Path, seed: int, kind: str) -> None:
    pixels = np.random.default_rng(seed).integers(
        0, 256, (9 + seed % 5, 14 - seed % 3, 3), dtype=np.uint8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format=kind)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """23 + 7 files of three classes, of several formats and with names of every kind."""
    for number in range(30):
        split = "train" if number < 23 else "test"
        name, kind = (("ä b.JPEG", "JPEG"), ("c.d.png", "PNG"), ("e.webp", "WEBP"))[
            number % 3
        ]
        picture(
            tmp_path / "photos" / split / f"k{number % 3}" / f"{number:02d}{name}",
            number,
            kind,
        )
    return tmp_path / "photos"


@pytest.fixture
def source(photos: Path) -> Dataset:
    return open_dataset(f"folder:{photos}")


@pytest.fixture
def out(tmp_path: Path, source: Dataset) -> Path:
    """The photos in shards of five or so."""
    write(source, tmp_path / "out")
    return tmp_path / "out"


def write(source: Dataset, out: Path, **options: Any) -> Written:
    return write_shards(
        source, out, **({"shard_bytes": 13_000, "workers": 2} | options)
    )


def contents(folder: Path) -> dict[str, str]:
    """All files of a folder, with their hashes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def same(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(getattr(first, field.name), getattr(second, field.name))
        for field in fields(Batch)
    )


def assert_same_source(first: Dataset, second: Dataset) -> None:
    assert first.fingerprint() == second.fingerprint()
    assert first.held_out == second.held_out
    for mine, theirs in (
        (first.train, second.train),
        (first.val, second.val),
        (first.test, second.test),
    ):
        assert (mine is None) == (theirs is None)
        if mine is None or theirs is None:
            continue
        assert (mine.classes, mine.channels, mine.size) == (
            theirs.classes,
            theirs.channels,
            theirs.size,
        )
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert mine.labels.dtype == np.int64
        for index in range(len(mine)):
            assert mine.name(index) == theirs.name(index)
            np.testing.assert_array_equal(mine.image(index), theirs.image(index))
            part = Part(lambda height, width: (1, 2, height // 2, width // 2), (3, 3))
            np.testing.assert_array_equal(
                mine.part(index, part), theirs.part(index, part)
            )


# The same data set


def test_a_folder_and_its_shards_are_one_data_set(source, out):
    assert_same_source(source, open_dataset(f"shards:{out}"))
    assert_same_source(source, open_dataset(str(out)))
    assert len(list(out.glob("train/*.tar"))) > 3


def test_a_flat_folder_holds_out_the_same_images(photos, tmp_path):
    flat = open_dataset(str(photos / "train"), split_seed=3, test_fraction=0.3)
    write(flat, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "train",
    ]
    opened = open_dataset(f"shards:{tmp_path / 'out'}", split_seed=3, test_fraction=0.3)
    assert opened.held_out == (0.3, 3)
    assert_same_source(flat, opened)


def test_val_beside_test(photos, tmp_path):
    shutil.copytree(photos / "test", photos / "valid")
    whole = open_dataset(f"folder:{photos}")
    assert write(whole, tmp_path / "out").images == {"train": 23, "val": 7, "test": 7}
    assert_same_source(whole, open_dataset(f"shards:{tmp_path / 'out'}"))


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_become_png(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(
        0, 256, (11, 4, 5, channels), dtype=np.uint8
    )
    arrays = Dataset.from_arrays(pixels, np.arange(11) % 2, ["left", "right"])
    write(arrays, tmp_path / "out", shard_bytes=1)
    assert len(list(tmp_path.glob("out/train/*.tar"))) == 11
    assert_same_source(arrays, open_dataset(f"shards:{tmp_path / 'out'}"))


def test_other_channels_are_refused(tmp_path):
    with pytest.raises(
        UserError,
        match="'images/[0-9]+': the image has 2 channels: shards hold gray and RGB",
    ):
        write(
            Dataset.from_arrays(np.zeros((4, 3, 3, 2), np.uint8), [0, 1, 0, 1]),
            tmp_path / "out",
        )


def test_shards_of_shards(out, tmp_path, source):
    write(open_dataset(f"shards:{out}"), tmp_path / "again", shard_bytes=20_000, seed=4)
    assert_same_source(source, open_dataset(f"shards:{tmp_path / 'again'}"))
    assert contents(out) != contents(tmp_path / "again")


def test_other_tools_find_a_plain_tar_with_the_very_bytes(source, out, photos):
    described = json.loads((out / "dataset.json").read_bytes())
    assert (described["source"], described["format_version"]) == ("folder:photos", 1)
    keys = []
    seen = []
    for split, images in (("train", source.train), ("test", source.test)):
        number = 0
        for shard in described["splits"][split]["shards"]:
            path = out / shard["name"]
            assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            with tarfile.open(path) as tar:
                members = tar.getmembers()
                files = [tar.extractfile(member).read() for member in members]
            assert len(members) == 2 * shard["images"]
            for member in members:
                facts = (
                    member.mtime,
                    member.uid,
                    member.gid,
                    member.uname,
                    member.gname,
                    member.mode,
                )
                assert facts == (0, 0, 0, "", "", 0o644)
            for picture, label, data, digit in zip(
                members[::2], members[1::2], files[::2], files[1::2], strict=True
            ):
                assert (picture.name.split(".")[0], label.name) == (
                    f"{number:09d}",
                    f"{number:09d}.cls",
                )
                assert {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}[
                    data[:2]
                ] == picture.name.split(".")[1]
                keys.append((split, int(digit)))
                seen.append(zlib.crc32(data))
                number += 1
        assert number == len(images)
    wanted = [zlib.crc32(path.read_bytes()) for path in photos.rglob("*.*")]
    assert sorted(seen) == sorted(wanted)
    train = [label for split, label in keys if split == "train"]
    assert train != sorted(train)  # mixed, for those who stream
    assert [
        label for split, label in keys if split == "test"
    ] == source.test.labels.tolist()  # read in order


@pytest.mark.parametrize("workers", [1, 3])
def test_shards_of_any_size(source, tmp_path, workers):
    """Also with more images than are read ahead."""
    write(source, tmp_path / "out", shard_bytes=10**7, workers=workers)
    assert len(list(tmp_path.glob("out/train/*.tar"))) == 1
    assert_same_source(source, open_dataset(f"shards:{tmp_path / 'out'}"))


def test_tars_without_their_index_keep_pictures_and_labels(
    source, out, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    (out / "dataset.json").unlink()
    found = open_dataset(f"shards:{out}").train
    assert found.classes == ("0", "1", "2")
    kept = [(int(found.labels[i]), found.image(i).tobytes()) for i in range(23)]
    assert sorted(kept) == sorted(
        (int(source.train.labels[i]), source.train.image(i).tobytes())
        for i in range(23)
    )


def test_the_order_in_the_tars_follows_the_seed(source, tmp_path):
    written = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(source, tmp_path / place, seed=seed)
        written.append(contents(tmp_path / place))
        assert_same_source(source, open_dataset(f"shards:{tmp_path / place}"))
    assert written[0] == written[1]
    changed = {
        name for name, digest in written[0].items() if written[2][name] != digest
    }
    assert any(name.startswith("train/shard") for name in changed)
    assert not any(name.startswith("test/") for name in changed)


def test_names_that_are_no_utf8(tmp_path):
    for number in range(4):
        picture(tmp_path / "photos" / f"k{number % 2}" / f"{number}.png", number, "PNG")
    try:
        (tmp_path / "photos/k1/1.png").rename(
            os.fsdecode(bytes(tmp_path / "photos/k1") + b"/\xff.png")
        )
    except OSError:
        pytest.skip("no such names on this file system")
    whole = open_dataset(str(tmp_path / "photos"))
    write(whole, tmp_path / "out")
    assert (
        open_dataset(f"shards:{tmp_path / 'out'}").fingerprint() == whole.fingerprint()
    )


# Exact batches


def test_each_image_once_per_epoch_over_ranks_workers_and_restarts(source, out):
    """23 steps of 6 are six epochs of 23; three runs, each with other ranks and
    workers, and stopped in mid-epoch.
    """
    shards = open_dataset(f"shards:{out}").train
    whole = TrainBatches(shards, PREPROCESS, INCEPTION, batch_size=6, seed=5)
    seen = []
    for steps, world_size, workers in (
        (range(9), 3, 2),
        (range(9, 10), 1, 0),
        (range(10, 23), 2, 1),
    ):
        ranks = [
            list(
                stream(
                    replace(whole, rank=rank, world_size=world_size),
                    steps,
                    workers=workers,
                )
            )
            for rank in range(world_size)
        ]
        seen += [
            torch.cat([batch.indices for batch in batches])
            for batches in zip(*ranks, strict=True)
        ]
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
    source, out, start_method
):
    whole = TrainBatches(source.train, PREPROCESS, INCEPTION, batch_size=6, seed=5)
    shards = replace(whole, images=open_dataset(f"shards:{out}").train)
    for step, batch in enumerate(stream(shards, range(4), workers=1)):
        assert same(batch, whole[step])


def test_subsets(source, out):
    shards = open_dataset(f"shards:{out}").train
    part, theirs = (
        images.subset([20, 3, 3, 7, 0]).subset(np.array([4, 1, 0]))
        for images in (shards, source.train)
    )
    assert [part.name(i) for i in range(3)] == [theirs.name(i) for i in range(3)]
    assert part.labels.tolist() == theirs.labels.tolist()
    np.testing.assert_array_equal(part.image(1), theirs.image(1))
    assert len(shards.subset([])) == 0
    for images in (shards, part):
        with pytest.raises(IndexError):
            images.image(len(images))
    for outside in (23, -1):
        with pytest.raises(IndexError):
            shards.subset([outside])


def test_little_is_sent_to_a_worker(out):
    """The index stays on the disk; of a part, four bytes an image."""
    shards = open_dataset(f"shards:{out}").train
    sent = pickle.dumps(shards)
    assert len(sent) < 1500
    again = pickle.loads(sent)
    assert again.name(22) == shards.name(22)
    part = pickle.loads(pickle.dumps(shards.subset(range(5, 20))))
    np.testing.assert_array_equal(part.image(3), shards.image(8))
    assert part._rows.dtype == np.uint32
    assert isinstance(shards._index["offset"].base.base, np.memmap)


# Stops while writing


class Stop(BaseException):
    pass


def stop_at(when: int) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        assert total == 30
        if done == when:
            raise Stop

    return report


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stop_at_any_image_changes_no_byte(source, out, tmp_path, workers):
    for first in range(1, 31, 2):
        again = tmp_path / f"stopped-{first}"
        for when in (first, min(first + 4, 30)):
            with pytest.raises(Stop):
                write(source, again, report=stop_at(when), workers=workers)
            with pytest.raises(
                UserError,
                match="is not finished: run the same `mlp-mixer data shard` command again",
            ):
                open_dataset(str(again))
        write(source, again, workers=workers)
        assert contents(again) == contents(out)


@pytest.mark.parametrize(
    "lost", ["train/shard-000001.tar", ".unfinished/train-000002.json"]
)
def test_a_shard_without_its_note_is_written_again(source, out, tmp_path, lost):
    with pytest.raises(Stop):
        write(source, tmp_path / "again", report=stop_at(29))
    (tmp_path / "again" / lost).unlink()
    leftover = tmp_path / "again" / "train" / ".shard-000001.tar.1.0.tmp"
    leftover.write_bytes(b"a writer was killed here")
    write(source, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(out)


def test_finished_shards_are_not_written_again(source, tmp_path):
    with pytest.raises(Stop):
        write(source, tmp_path / "out", report=stop_at(20))
    finished = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("out/train/*.tar")
    }
    assert len(finished) > 1
    seen: list[int] = []
    write(source, tmp_path / "out", report=lambda done, total: seen.append(done))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert seen[0] > 10
    assert seen[-1] == 30


def test_a_finished_set_stays_as_it_is(source, out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / ".unfinished").mkdir()  # killed between the last file and the end
    (out / ".unfinished" / "plan.json").write_text("{}")
    assert write(source, out) == Written(
        {"train": 23, "test": 7}, len(list(out.rglob("*.tar"))), {}
    )
    assert {
        path: path.stat().st_mtime_ns for path in out.rglob("*")
    }.keys() == before.keys()
    assert all(
        path.stat().st_mtime_ns == time for path, time in before.items() if path != out
    )


def test_another_numpy_may_shuffle_otherwise(source, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        write(source, tmp_path / "out", report=stop_at(9))
    monkeypatch.setattr(
        "mlp_mixer.data.shard_writer.epoch_order",
        lambda seed, epoch, length: np.arange(length)[::-1],
    )
    with pytest.raises(UserError, match="was begun from another"):
        write(source, tmp_path / "out")


@pytest.mark.parametrize("options", [{"seed": 1}, {"shard_bytes": 9000}])
def test_another_order_or_size_needs_another_folder(source, out, tmp_path, options):
    with pytest.raises(
        UserError,
        match="has other shards .another source, size or seed.: choose a new folder",
    ):
        write(source, out, **options)
    with pytest.raises(Stop):
        write(source, tmp_path / "begun", report=stop_at(3))
    with pytest.raises(
        UserError, match="was begun from another source, size or seed: repeat those"
    ):
        write(source, tmp_path / "begun", **options)


def test_a_folder_with_something_else_is_left_alone(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(
        UserError, match=r"mine' is not empty .it has 'diary.txt'.: choose a new folder"
    ):
        write(source, tmp_path / "mine")
    (tmp_path / "mine" / "dataset.json").write_text("[1]")
    with pytest.raises(UserError, match="has other shards"):
        write(source, tmp_path / "mine")
    (tmp_path / "mine" / "dataset.json").write_text("[1")
    with pytest.raises(
        UserError, match="cannot read .*dataset.json.*; choose a new folder"
    ):
        write(source, tmp_path / "mine")
    with pytest.raises(UserError, match="cannot create the folder"):
        write(source, tmp_path / "mine" / "diary.txt" / "x")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "dataset.json",
        "diary.txt",
    ]


def test_two_writers_at_once(source, tmp_path):
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    with (
        FileLock(tmp_path / "out" / ".unfinished" / "lock"),
        pytest.raises(UserError, match="another process is wri"),
    ):
        write(source, tmp_path / "out")
    write(source, tmp_path / "out")


# Images that are none


@pytest.fixture
def broken(photos: Path) -> list[str]:
    """Two images that are damaged: cut short, and no image at all."""
    cut = photos / "train/k0/12ä b.JPEG"
    none = photos / "test/k1/25c.d.png"
    cut.write_bytes(cut.read_bytes()[:-100])
    none.write_bytes(b"hello")
    return [str(path.relative_to(photos)) for path in (cut, none)]


def test_the_first_bad_image_is_named(source, broken, tmp_path):
    with pytest.raises(UserError) as caught:
        write(source, tmp_path / "out")
    assert str(caught.value).startswith(
        f"{broken[0]!r}: the image is cut short and cannot be decoded"
    )
    assert "--skip-bad" in str(caught.value)


def test_bad_images_are_left_out_and_listed(source, broken, tmp_path, photos):
    (photos / "test/k2/26e.webp").unlink()
    whole = tmp_path / "whole"
    done = write(source, whole, skip_bad=True)
    assert done.images == {"train": 22, "test": 5}
    assert sorted(done.left_out) == sorted([*broken, "test/k2/26e.webp"])
    assert (
        done.left_out["test/k2/26e.webp"]
        == "the image cannot be read: No such file or directory"
    )
    assert (
        json.loads((whole / "dataset.json").read_bytes())["left_out"] == done.left_out
    )
    assert str(tmp_path) not in (whole / "dataset.json").read_text()
    opened = open_dataset(f"shards:{whole}")
    kept = [i for i in range(23) if source.train.name(i) != broken[0]]
    assert [opened.train.name(i) for i in range(22)] == [
        source.train.name(i) for i in kept
    ]
    np.testing.assert_array_equal(opened.train.image(21), source.train.image(kept[21]))
    with pytest.raises(UserError, match="--skip-bad"):
        write(source, tmp_path / "out")
    assert write(source, tmp_path / "out", skip_bad=True) == done
    assert (
        write(source, tmp_path / "out", skip_bad=True) == done
    )  # there, and still listed
    assert contents(tmp_path / "out") == contents(whole)


def test_nothing_but_bad_images(source, photos, tmp_path):
    for path in (photos / "test").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="not one image of test can be decoded"):
        write(source, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_more_shards_than_names(tmp_path, monkeypatch, source):
    monkeypatch.setattr("mlp_mixer.data.shard_writer._MAX_SHARDS", 5)
    with pytest.raises(
        UserError, match="shards of 1 bytes would be more than 5: choose a larger size"
    ):
        write(source, tmp_path / "out", shard_bytes=1)


def test_huge_files_are_no_images(source, tmp_path, monkeypatch):
    monkeypatch.setattr("mlp_mixer.data.shard_writer._MAX_IMAGE", 100)
    with pytest.raises(UserError, match="the image has more than 100 bytes"):
        write(source, tmp_path / "out")


# Hostile files

Change = Callable[[dict[str, Any]], Any]


def refused(out: Path, match: str) -> None:
    def read_all() -> None:
        train = open_dataset(f"shards:{out}").train
        for index in range(len(train)):
            train.name(index)
            train.image(index)

    with pytest.raises(UserError, match=match) as caught:
        read_all()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("classes"), "does not describe shards: KeyError"),
        (lambda d: d.update(classes=[1, 2]), "classes are not all names"),
        (lambda d: d.update(classes=None), "does not describe shards: TypeError"),
        (lambda d: d.update(classes=["one"]), "labels go from 0 to 2 but there are 1 classes"),
        (lambda d: d.update(format_version=2), "its format_version is '2', expected 1; is it newer"),
        (lambda d: d.update(splits=[]), "does not describe shards: AttributeError"),
        (lambda d: d["splits"].pop("train"), "its splits are 'test', expected train"),
        (lambda d: d["splits"].update({"../x": d["splits"]["test"]}), "its splits are"),
        (lambda d: d["splits"]["train"].update(images=24), "values of .* for 24 images"),
        (lambda d: d["splits"]["train"].update(images=2**70), "is not a number of bytes"),
        (lambda d: d["splits"]["train"].update(images=-1), "'-1' is not a number of bytes"),
        (lambda d: d["splits"]["train"].update(images="23"), "'23' is not a number of bytes"),
        (lambda d: d["splits"]["train"].update(size=[5]), "does not describe shards: IndexError"),
        (lambda d: d["splits"]["train"]["index"].update(name="../out/x"), "not the name of a file"),
        (lambda d: d["splits"]["train"]["index"].update(name="/etc/passwd"), "not the name of a file"),
        (lambda d: d["splits"]["train"]["index"].update(name="c:\\x"), "not the name of a file"),
        (lambda d: d["splits"]["train"]["index"].update(name="a\\..\\x"), "not the name of a file"),
        (lambda d: d["splits"]["train"]["index"].update(name="nowhere"), "cannot read the index .*nowhere"),
        (lambda d: d["splits"]["train"]["shards"][0].update(name="../../x.tar"), "not the name of a file"),
        (lambda d: d["splits"]["train"]["shards"][0].update(name="train/other.tar"), "cannot read the shard .*other"),
        (lambda d: d["splits"]["train"]["shards"][0].update(bytes=512), "points beyond its shards"),
        (lambda d: d["splits"]["train"]["shards"][0].update(bytes=10**9), "bytes, expected 1000000000: copy it again"),
        (lambda d: d["splits"]["train"]["shards"].pop(), "points beyond its shards"),
        (lambda d: d["splits"]["train"]["shards"].reverse(), "points beyond|check sum is wrong|bytes, expected"),
    ],
)  # fmt: skip
def test_a_description_that_lies(out: Path, change: Change, message: str) -> None:
    described = json.loads((out / "dataset.json").read_bytes())
    change(described)
    (out / "dataset.json").write_text(json.dumps(described))
    refused(out, message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        "[" * 100_000,
        '{"format_version": 1' + "0" * 5000 + "}",
    ],
)
def test_a_description_that_is_none(out, text):
    (out / "dataset.json").write_text(text)
    refused(out, "does not describe shards")


def test_a_description_without_end(out, monkeypatch):
    monkeypatch.setattr("mlp_mixer.data.shards._MAX_TEXT", 1000)
    refused(out, "has more than 1000 bytes")


def test_a_description_that_cannot_be_read(out, monkeypatch):
    def denied(path: Path, *_: object, **__: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(out, "cannot read .*dataset.json': Permission denied")


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
            "cannot use .*index.safetensors': labels go from 0 to 3 but there are 3 classes",
        ),
        ("label", 2**32 - 1, "labels go from 0 to 4294967295"),
        (
            "crc32",
            1,
            "'train/.*' in 'train/shard-.*' is damaged: its check sum is wrong; copy it again",
        ),
    ],
)
def test_an_index_that_lies(out, column, value, message):
    path = out / "train" / "index.safetensors"
    columns = safetensors.numpy.load(path.read_bytes())
    columns[column][4] = value
    path.write_bytes(safetensors.numpy.save(columns))
    refused(out, message)


def test_names_that_lie_cost_no_memory(out):
    path = out / "train" / "index.safetensors"
    columns = safetensors.numpy.load(path.read_bytes())
    columns["name_end"][4:6] = 2**63, 0
    path.write_bytes(safetensors.numpy.save(columns))
    train = open_dataset(f"shards:{out}").train
    assert train.name(5) == ""
    assert len(train.name(4).encode()) == len(columns["names"]) - int(
        columns["name_end"][3]
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}" + bytes(100),
        (2).to_bytes(8, "little") + b"[]" + bytes(100),
        (2**16).to_bytes(8, "little") + b"[" * 2**16 + bytes(9),
    ],
)
def test_an_index_that_is_none(out, data):
    (out / "train" / "index.safetensors").write_bytes(data)
    refused(out, "cannot read the index .*; copy it again, or delete the cache")


@pytest.mark.parametrize(
    "offsets", [[0, 2**60], [-8, 8], [8, 0], [0.5, 1], "ab", None, [0]]
)
def test_an_index_with_columns_elsewhere(out, offsets):
    path = out / "train" / "index.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["offset"]["data_offsets"] = offsets
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(out, "cannot read the index")


def test_an_index_that_is_cut(out):
    path = out / "train" / "index.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(out, "cannot read the index .* lies beyond its end")


def test_shards_that_are_cut_damaged_or_gone(out, source):
    path = out / "train" / "shard-000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    refused(
        out,
        f"shard-000001.tar' has {len(data) - 512} bytes, expected {len(data)}: copy it again",
    )
    path.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    refused(out, "is damaged: its check sum is wrong")
    path.unlink()
    refused(out, "cannot read the shard .*shard-000001.tar': No such file")
    path.write_bytes(data)
    assert_same_source(source, open_dataset(f"shards:{out}"))


def test_a_worker_hands_the_sentence_over(out):
    (out / "test" / "shard-000000.tar").unlink()
    batches = EvalBatches(open_dataset(f"shards:{out}").test, PREPROCESS, 2)
    with pytest.raises(UserError, match="cannot read the shard") as caught:
        list(stream(batches, range(3), workers=1))
    assert type(caught.value) is UserError


def test_an_image_that_is_damaged_is_named(out):
    """Where the check sum agrees, the decoder finds it."""
    train = open_dataset(f"shards:{out}").train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardSet, "encoded", lambda self, index: b"none")
        with pytest.raises(
            UserError,
            match=f"{train.name(3)!r}: the image is not an image in a known format",
        ):
            train.image(3)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "absent", "absent.tar"):
        with pytest.raises(
            UserError, match=f"there are no shards to train on in .*{place}"
        ):
            open_dataset(f"shards:{tmp_path / place}")
    for spec in ("shards", "shards:"):
        with pytest.raises(
            UserError, match="no path after the colon of .*expected shards:PATH"
        ):
            open_dataset(spec)


def test_a_million_images_cost_little(tmp_path):
    """Opening maps; what is read is one column of labels."""
    from mlp_mixer.data.shards import write_index

    count = 1_000_000
    (tmp_path / "train").mkdir()
    columns = {
        name: np.zeros(count, "u4") for name in ("offset", "size", "shard", "label")
    }
    write_index(
        tmp_path / "train" / "index.safetensors",
        columns,
        ("name" for _ in range(count)),
    )
    files = {"name": "train/index.safetensors", "bytes": 0}
    split = {"images": count, "channels": 3, "size": None, "index": files, "shards": []}
    (tmp_path / "dataset.json").write_text(
        json.dumps(
            {
                "format_version": 1,
                "classes": ["a"],
                "splits": {"train": split, "test": split},
            }
        )
    )
    began = time.perf_counter()
    images = open_dataset(f"shards:{tmp_path}").train
    assert time.perf_counter() - began < 1
    assert (len(images), images.name(count - 1)) == (count, "name")
    assert len(pickle.dumps(images)) < 1000


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
    with pytest.raises(
        UserError,
        match="cannot read the size .*: expected a number of bytes such as 256MB",
    ):
        parse_bytes(text)
