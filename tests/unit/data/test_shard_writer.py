"""Shards are written once, end with the same bytes after any stop, and name bad images.

This covers `shard_writer` and `shard_job`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from mlp_mixer.data import Dataset, ImageSet, open_dataset
from mlp_mixer.data.shard_writer import Written, write_shards
from mlp_mixer.errors import UserError


def write(dataset: Dataset, out: Path, **options: Any) -> Written:
    return write_shards(dataset, out, **{"shard_bytes": 13_000, "workers": 2} | options)


def contents(folder: Path) -> dict[str, str]:
    """All files of a folder, with their hashes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


# The same dataset


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_become_png(tmp_path, channels, assert_same):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (11, 4, 5, channels), dtype=np.uint8)
    arrays = Dataset.from_arrays(pixels, np.arange(11) % 2, ["left", "right"])
    write(arrays, tmp_path / "out", shard_bytes=1)
    assert len(list(tmp_path.glob("out/train/*.tar"))) == 11
    assert_same(arrays, open_dataset(f"shards:{tmp_path / 'out'}"))


def test_other_channels_are_refused(tmp_path):
    pixels = np.zeros((4, 3, 3, 2), np.uint8)
    arrays = Dataset.from_arrays(pixels, [0, 1, 0, 1])
    message = "'images/[0-9]+': the image has 2 channels: shards hold gray and RGB"
    with pytest.raises(UserError, match=message):
        write(arrays, tmp_path / "out")


def test_shards_of_shards(out, tmp_path, dataset, assert_same):
    again = tmp_path / "again"
    write(open_dataset(f"shards:{out}"), again, shard_bytes=20_000, seed=4)
    assert_same(dataset, open_dataset(f"shards:{again}"))
    assert contents(out) != contents(again)


def test_other_tools_find_plain_tars_with_the_very_bytes(dataset, out, photos):
    described = json.loads((out / "dataset.json").read_bytes())
    labels: dict[str, list[int]] = {"train": [], "test": []}
    sums = []
    for split, found in labels.items():
        shards = described["splits"][split]["shards"]
        for shard in shards:
            first = len(found)
            for ending, data, label in samples(out / shard["name"], first):
                assert data.startswith(MAGIC[ending])
                sums.append(zlib.crc32(data))
                found.append(label)
            assert len(found) - first == shard["images"]
            digest = hashlib.sha256((out / shard["name"]).read_bytes()).hexdigest()
            assert shard["sha256"] == digest
    wanted = [zlib.crc32(path.read_bytes()) for path in photos.rglob("*.*")]
    assert sorted(sums) == sorted(wanted)
    # Train is mixed, for tools that stream; test is read in order.
    assert sorted(labels["train"]) == sorted(dataset.train.labels.tolist())
    assert labels["train"] != sorted(labels["train"])
    assert labels["test"] == dataset.test.labels.tolist()


MAGIC = {"jpg": b"\xff\xd8", "png": b"\x89PNG", "webp": b"RIFF"}


def samples(path: Path, first: int) -> list[tuple[str, bytes, int]]:
    """Ending, bytes and label of each image of a shard; the names count from `first`."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        files = [tar.extractfile(member).read() for member in members]
    for member in members:
        assert (member.mtime, member.mode) == (0, 0o644)
        assert (member.uid, member.gid) == (0, 0)
        assert (member.uname, member.gname) == ("", "")
    found = []
    for number in range(len(members) // 2):
        key = f"{first + number:09d}"
        image = members[2 * number].name
        assert image.split(".")[0] == key
        assert members[2 * number + 1].name == f"{key}.cls"
        label = int(files[2 * number + 1])
        found.append((image.split(".")[1], files[2 * number], label))
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_shards_of_any_size(dataset, tmp_path, workers, assert_same):
    """Also with more images than are read ahead."""
    write(dataset, tmp_path / "out", shard_bytes=10**7, workers=workers)
    assert len(list(tmp_path.glob("out/train/*.tar"))) == 1
    assert_same(dataset, open_dataset(f"shards:{tmp_path / 'out'}"))


def test_the_order_in_the_tars_follows_the_seed(dataset, tmp_path, assert_same):
    written = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(dataset, tmp_path / place, seed=seed)
        written.append(contents(tmp_path / place))
        assert_same(dataset, open_dataset(f"shards:{tmp_path / place}"))
    first, again, other = written
    assert first == again
    changed = {name for name, digest in first.items() if other[name] != digest}
    assert any(name.startswith("train/shard") for name in changed)
    assert not any(name.startswith("test/") for name in changed)


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
def test_a_stop_at_any_image_changes_no_byte(dataset, out, tmp_path, workers):
    unfinished = "is not finished: run the same `mlp-mixer data shard` command again"
    for first in range(1, 31, 2):
        again = tmp_path / f"stopped-{first}"
        for when in (first, min(first + 4, 30)):
            with pytest.raises(Stop):
                write(dataset, again, report=stop_at(when), workers=workers)
            with pytest.raises(UserError, match=unfinished):
                open_dataset(str(again))
        write(dataset, again, workers=workers)
        assert contents(again) == contents(out)


@pytest.mark.parametrize(
    "lost", ["train/shard-000001.tar", ".unfinished/train-000002.json"]
)
def test_a_shard_without_its_note_is_written_again(dataset, out, tmp_path, lost):
    again = tmp_path / "again"
    with pytest.raises(Stop):
        write(dataset, again, report=stop_at(29))
    (again / lost).unlink()
    leftover = again / "train" / ".shard-000001.tar.1.0.tmp"
    leftover.write_bytes(b"a writer was killed here")
    write(dataset, again)
    assert contents(again) == contents(out)


def test_finished_shards_are_not_written_again(dataset, tmp_path):
    with pytest.raises(Stop):
        write(dataset, tmp_path / "out", report=stop_at(20))
    tars = list(tmp_path.glob("out/train/*.tar"))
    assert len(tars) > 1
    before = [path.stat().st_mtime_ns for path in tars]
    seen: list[int] = []
    write(dataset, tmp_path / "out", report=lambda done, total: seen.append(done))
    assert [path.stat().st_mtime_ns for path in tars] == before
    assert seen[0] > 10
    assert seen[-1] == 30


def test_a_finished_set_stays_as_it_is(dataset, out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    # Killed between the last file and the end.
    (out / ".unfinished").mkdir()
    (out / ".unfinished" / "plan.json").write_text("{}")
    tars = len(list(out.rglob("*.tar")))
    assert write(dataset, out) == Written({"train": 23, "test": 7}, tars, {})
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert after.keys() == before.keys()
    for path, time in before.items():
        assert after[path] == time


def test_another_numpy_may_shuffle_otherwise(dataset, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        write(dataset, tmp_path / "out", report=stop_at(9))

    def backwards(seed: int, epoch: int, length: int) -> np.ndarray:
        return np.arange(length)[::-1]

    monkeypatch.setattr("mlp_mixer.data.shard_job.epoch_order", backwards)
    with pytest.raises(UserError, match="was begun from another"):
        write(dataset, tmp_path / "out")


@pytest.mark.parametrize("options", [{"seed": 1}, {"shard_bytes": 9000}])
def test_another_order_or_size_needs_another_folder(dataset, out, tmp_path, options):
    message = "has other shards .another dataset, size or seed.: choose a new folder"
    with pytest.raises(UserError, match=message):
        write(dataset, out, **options)
    with pytest.raises(Stop):
        write(dataset, tmp_path / "begun", report=stop_at(3))
    message = "was begun from another dataset, size or seed: repeat those"
    with pytest.raises(UserError, match=message):
        write(dataset, tmp_path / "begun", **options)


def test_a_folder_with_something_else_is_left_alone(dataset, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear")
    message = r"mine' is not empty .it has 'diary.txt'.: choose a new folder"
    with pytest.raises(UserError, match=message):
        write(dataset, mine)
    (mine / "dataset.json").write_text("[1]")
    with pytest.raises(UserError, match="has other shards"):
        write(dataset, mine)
    (mine / "dataset.json").write_text("[1")
    message = "cannot read .*dataset.json.*; choose a new folder"
    with pytest.raises(UserError, match=message):
        write(dataset, mine)
    with pytest.raises(UserError, match="cannot create the folder"):
        write(dataset, mine / "diary.txt" / "x")
    names = sorted(path.name for path in mine.iterdir())
    assert names == ["dataset.json", "diary.txt"]


def test_two_writers_at_once(dataset, tmp_path):
    notes = tmp_path / "out" / ".unfinished"
    notes.mkdir(parents=True)
    with (
        FileLock(notes / "lock"),
        pytest.raises(UserError, match="another process is wri"),
    ):
        write(dataset, tmp_path / "out")
    write(dataset, tmp_path / "out")


# Images that cannot be decoded


@pytest.fixture
def broken(photos: Path) -> list[str]:
    """Two images that are damaged: one is cut short, the other is no image at all."""
    cut = photos / "train/k0/12ä b.JPEG"
    text = photos / "test/k1/25c.d.png"
    cut.write_bytes(cut.read_bytes()[:-100])
    text.write_bytes(b"hello")
    return [str(path.relative_to(photos)) for path in (cut, text)]


def test_the_first_bad_image_is_named(dataset, broken, tmp_path):
    with pytest.raises(UserError) as caught:
        write(dataset, tmp_path / "out")
    sentence = str(caught.value)
    start = f"{broken[0]!r}: the image is cut short and cannot be decoded"
    assert sentence.startswith(start)
    assert "--skip-bad" in sentence


def names(images: ImageSet) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def test_bad_images_are_left_out_and_listed(dataset, broken, tmp_path, photos):
    (photos / "test/k2/26e.webp").unlink()
    out = tmp_path / "new"
    done = write(dataset, out, skip_bad=True)
    assert done.images == {"train": 22, "test": 5}
    assert sorted(done.left_out) == sorted([*broken, "test/k2/26e.webp"])
    reason = done.left_out["test/k2/26e.webp"]
    assert reason == "the image cannot be read: No such file or directory"
    description = (out / "dataset.json").read_text()
    assert json.loads(description)["left_out"] == done.left_out
    assert str(tmp_path) not in description
    opened = open_dataset(f"shards:{out}").train
    kept = [i for i in range(23) if dataset.train.name(i) != broken[0]]
    assert names(opened) == [dataset.train.name(i) for i in kept]
    last = dataset.train.image(kept[21])
    np.testing.assert_array_equal(opened.image(21), last)


def test_a_refused_set_can_go_on_without_its_bad_images(dataset, broken, tmp_path):
    done = write(dataset, tmp_path / "new", skip_bad=True)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="--skip-bad"):
        write(dataset, out)
    assert write(dataset, out, skip_bad=True) == done
    # The second time nothing is left to do, and the list is the same.
    assert write(dataset, out, skip_bad=True) == done
    assert contents(out) == contents(tmp_path / "new")


def test_nothing_but_bad_images(dataset, photos, tmp_path):
    for path in (photos / "test").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="not one image of test can be decoded"):
        write(dataset, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_more_shards_than_names(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr("mlp_mixer.data.shard_job._MAX_SHARDS", 5)
    message = "shards of 1 bytes would be more than 5: choose a larger size"
    with pytest.raises(UserError, match=message):
        write(dataset, tmp_path / "out", shard_bytes=1)


def test_huge_files_are_no_images(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("mlp_mixer.data.shard_job._MAX_IMAGE", 100)
    with pytest.raises(UserError, match="the image has more than 100 bytes"):
        write(dataset, tmp_path / "out")
