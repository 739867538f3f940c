"""Tars in WebDataset's layout that were not written here."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import foreign_shards, open_dataset
from mlp_mixer.errors import UserError

Member = tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def samples(*numbers: int, label: str = "cls") -> list[Member]:
    """Images that are as red as their number, of the class of their number modulo 3."""
    text = {"cls": "%d", "json": '{"filename": "x", "label": %d}'}[label]
    members = []
    for number in numbers:
        members.append((f"{number:06d}.{label}", (text % (number % 3)).encode()))
        members.append((f"{number:06d}.png", png(number)))
    return members


def make(path: Path, members: list[Member], kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1_700_000_000
            info.uid = 1000
            tar.addfile(info, io.BytesIO(data))
    return path


def reds(images) -> list[int]:
    return [int(images.image(index)[0, 0, 0]) for index in range(len(images))]


@pytest.mark.parametrize("label", ["cls", "json"])
def test_a_folder_of_tars_is_indexed_once(tmp_path, cache, label, monkeypatch):
    make(tmp_path / "tars" / "a-001.tar", samples(5, 6, 7, label=label))
    make(tmp_path / "tars" / "a-000.tar", samples(*range(5), label=label))
    flat = open_dataset(f"shards:{tmp_path / 'tars'}").all()
    assert reds(flat) == list(range(8))
    assert flat.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert flat.classes == ("0", "1", "2")
    assert flat.name(0) == "a-000/000000.png"
    assert flat.name(7) == "a-001/000007.png"
    there = sorted(path.name for path in (tmp_path / "tars").iterdir())
    assert there == ["a-000.tar", "a-001.tar"]
    monkeypatch.setattr(foreign_shards, "_write_index_of_all", None)
    assert len(open_dataset(f"shards:{tmp_path / 'tars'}").all()) == 8


def test_a_tar_that_has_changed_is_indexed_again(tmp_path):
    path = make(tmp_path / "a.tar", samples(1, 2))
    old = open_dataset(f"shards:{path}").train
    make(path, samples(1, 2, 3, 4, 5, 6, 7))
    assert len(open_dataset(f"shards:{path}").all()) == 7
    with pytest.raises(UserError, match=r"a.tar' has \d+ bytes, expected"):
        old.image(0)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("train/0.tar", "validation/0.tar"), ("train", "test")),
        (("Train/0.tar", "val/0.tar", "test/0.tar"), ("train", "val", "test")),
        (("in1k-train-0000.tar", "in1k-validation-00.tar"), ("train", "test")),
        (("s_train.tar", "s_val.tar", "s_test.tar"), ("train", "val", "test")),
    ],
)
def test_splits(tmp_path, names, found):
    for number, name in enumerate(names):
        make(tmp_path / "set" / name, samples(number, number + 3))
    make(tmp_path / "set" / "other" / "x.tar", samples(9))
    dataset = open_dataset(f"shards:{tmp_path / 'set'}")
    parts = [getattr(dataset, split) for split in found]
    assert [reds(part) for part in parts] == [[n, n + 3] for n in range(len(names))]
    assert dataset.held_out is None


def test_class_names(tmp_path):
    make(tmp_path / "a.tar", samples(*range(6)))
    (tmp_path / "classes.txt").write_text("tench\n English springer \nchain saw\n\n")
    found = open_dataset(f"shards:{tmp_path}").train.classes
    assert found == ("tench", "English springer", "chain saw")
    (tmp_path / "classes.txt").write_text("tench\nsaw\n")
    message = "labels go from 0 to 2 but there are 2 classes"
    with pytest.raises(UserError, match=message):
        open_dataset(f"shards:{tmp_path}")
    (tmp_path / "classes.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot read the shards in"):
        open_dataset(f"shards:{tmp_path}")


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names(tmp_path, kind):
    stem = "a" * 60 + "/" + "ü" * 60 + "/7"
    members = [(f"{stem}.png", png(7)), (f"{stem}.cls", b"1"), *samples(3)]
    path = make(tmp_path / "a.tar", members, kind)
    images = open_dataset(f"shards:{path}").train
    assert reds(images) == [7, 3]
    assert images.name(0) == f"a/{stem}.png"


def test_what_is_no_sample_is_passed_over(tmp_path):
    path = tmp_path / "a.tar"
    pax = {"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": "global"}}
    with tarfile.open(path, "w", **pax) as tar:
        folder = tarfile.TarInfo("x")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("x/000.png")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        tar.addfile(link)
        parts = [
            ("README", b"x"),
            ("x/.png", b"x"),
            ("x/._1.png", b"x"),
            ("x/1.seg.png", png(9)),
            ("x/1.PNG", png(1)),
            ("x/1.txt", b"a"),
            ("x/1.json", b'{"label": 4}'),
            ("x/1.cls", b" 1\n"),
            ("y/1.webp.txt", b""),
            ("y/2.CLS", b"0"),
            ("y/2.png", png(2)),
        ]
        for name, data in parts:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    images = open_dataset(f"shards:{path}").train
    assert reds(images) == [1, 2]
    assert images.labels.tolist() == [1, 0]
    assert images.classes == ("0", "1")


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_dataset(f"shards:{path}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            ("cls", b"cat"),
            "has the label b'cat': expected the number of a class, 0 to 9",
        ),
        (("cls", b"-1"), "has the label b'-1'"),
        (("cls", b"1000000"), "has the label b'1000000'"),
        (("cls", b"9" * 5000), "has the label b'999"),
        (("cls", b"true"), "has the label b'true'"),
        (("cls", b""), "has the label b''"),
        (("cls", b"\xff"), "has the label"),
        (("cls", b"[" * 100_000), "has the label"),
        (("cls", bytes(2**20 + 1)), "has a label or name of 1048577 bytes"),
        (("json", b"3"), "has the label b'3'"),
        (("json", b'{"class": 3}'), "has the label"),
        (("json", b'{"label": "3"}'), "has the label"),
        (
            ("txt", b"3"),
            "'1.png' in .*a.tar' has no label: expected a file of the same n",
        ),
    ],
)
def test_labels_that_are_none(tmp_path, label, message):
    ending, text = label
    path = make(tmp_path / "a.tar", [("1.png", png(1)), (f"1.{ending}", text)])
    refused(path, message)


def test_two_images_of_one_name(tmp_path):
    members = [("1.png", png(1)), ("1.jpg", b""), ("1.cls", b"0")]
    refused(make(tmp_path / "a.tar", members), "shares its name with another image")


def test_no_images(tmp_path):
    path = make(tmp_path / "a.tar", [("1.cls", b"0")])
    refused(path, "there is no image in .*a.tar' and its neighbours")
    val = make(tmp_path / "b" / "val" / "a.tar", samples(1))
    refused(val.parents[1], "has val but no train: expected tars")


def test_tars_that_are_cut(tmp_path):
    data = make(tmp_path / "a.tar", samples(1, 2)).read_bytes()
    inside = r"is cut short: '00000\d.\w+' claims \d+ bytes; copy it again"
    none = "no end mark"
    messages = {
        512: inside,
        1536: inside,
        1600: inside,
        0: none,
        2048: none,
        4096: none,
    }
    for length, message in messages.items():
        path = tmp_path / f"{length}.tar"
        path.write_bytes(data[:length])
        refused(path, message)
    for length in (100, 2100):
        path = tmp_path / f"{length}.tar"
        path.write_bytes(data[:length])
        refused(path, rf"is damaged at byte {length // 512 * 512}: truncated header")


def test_what_is_no_tar(tmp_path):
    text = b"hello" * 1000
    noise = np.random.default_rng(0).bytes(5000)
    gzipped = b"\x1f\x8b" + bytes(2000)
    for number, data in enumerate((text, noise, gzipped)):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data)
        refused(path, r"\d.tar' is no plain tar file, or is damaged at byte 0")


@pytest.mark.parametrize("size", [2**62, -(2**40), -512])
def test_a_header_that_lies_about_its_size(tmp_path, size):
    """In base 256, which can say anything, also numbers that lead backwards."""
    path = make(tmp_path / "a.tar", samples(1))
    data = bytearray(path.read_bytes())
    sign = b"\x80" if size > 0 else b"\xff"
    data[124:136] = sign + size.to_bytes(11, "big", signed=True)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    refused(path, f"is cut short: '000001.cls' claims {size} bytes")


def test_a_name_that_is_too_long(tmp_path):
    path = make(tmp_path / "a.tar", [("a" * 2**21, b"")], tarfile.GNU_FORMAT)
    refused(path, "a label or name of 2097153 bytes")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    path = make(tmp_path / "a.tar", samples(1))

    opened = os.open

    def denied(name: object, *rest: int, **options: int) -> int:
        if str(name).endswith("a.tar"):
            raise PermissionError(13, "Permission denied")
        return opened(name, *rest, **options)

    monkeypatch.setattr(os, "open", denied)
    refused(path, "cannot read the shards in .*Permission denied")


def test_json_files_do_not_grow(tmp_path, cache):
    """What the cache holds of foreign tars is our own format."""
    make(tmp_path / "a.tar", samples(1, 2))
    open_dataset(f"shards:{tmp_path / 'a.tar'}")
    (description,) = cache.glob("shards/indexed-*/dataset.json")
    record = json.loads(description.read_bytes())["splits"]["train"]
    size = (tmp_path / "a.tar").stat().st_size
    assert record["shards"] == [{"name": "a.tar", "bytes": size, "images": 2}]


@pytest.mark.parametrize(
    "stems",
    [
        ["2024.05.12", "2024.05.13", "2024.06.01"],
        ["photo.v1", "photo.v2", "other"],
        ["a/b.c", "a/b.d", "d.e/f.g"],
        ["v1.0", "v1.1", "v1.1.2"],
    ],
)
@pytest.mark.parametrize("label", ["cls", "json"])
def test_names_may_have_dots(tmp_path, stems, label):
    members = []
    for number, stem in enumerate(stems):
        text = b"%d" % number if label == "cls" else b'{"label": %d}' % number
        members += [(f"{stem}.png", png(number)), (f"{stem}.{label}", text)]
    make(tmp_path / "a.tar", members)
    images = open_dataset(f"shards:{tmp_path}").all()
    assert images.labels.tolist() == [0, 1, 2]
    assert reds(images) == [0, 1, 2]
    assert images.passed_over == ""


def test_images_in_no_sample_are_counted(tmp_path):
    masks = [("000001.seg.png", png(9)), ("x.mask.png", png(8)), ("x.cls", b"1")]
    make(tmp_path / "a.tar", [*samples(1, 2), *masks])
    for _ in range(2):  # read from the tar, and from its index
        images = open_dataset(f"shards:{tmp_path}").all()
        assert len(images) == 2
        assert images.passed_over == "2 .png in no sample with a label"
