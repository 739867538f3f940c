"""What `check_folder` finds in folders with planted faults, and what it must not find
among sound pictures.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import select
import signal
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.check import folder as module
from mlp_mixer.check.folder import KINDS, Check, check_folder
from mlp_mixer.check.isolated import WorkerFailure, map_isolated
from mlp_mixer.check.lookalikes import (
    BITS,
    alike,
    close_hashes,
    describe,
    hashes,
    odd_labels,
)
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import decode_image

COLOURS = {"meadow": (60, 160, 60), "sea": (40, 90, 190), "desert": (210, 150, 60)}


def photo(
    seed: int, colour: tuple[int, int, int], size: tuple[int, int] = (96, 80)
) -> Image.Image:
    """A smooth random picture of a colour; no two look alike."""
    field = np.random.default_rng(seed).normal(0, 45, (7, 7, 3)) + colour
    return Image.fromarray(field.clip(0, 255).astype(np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )


def sound(root: Path, train: int = 30, test: int = 8) -> Path:
    seeds = itertools.count()
    for split, count in (("train", train), ("test", test)):
        for label, colour in COLOURS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                photo(next(seeds), colour).save(
                    folder / f"{number:02d}.jpg", quality=90
                )
    return root


def found(check: Check) -> set[tuple[str, str]]:
    return {(finding.kind, finding.path) for finding in check.findings}


def png(header: bytes, body: bytes = b"") -> bytes:
    """A PNG of these 13 bytes of header, whose data are these."""
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def plant(root: Path) -> set[tuple[str, str]]:
    """Put more than forty faults of all kinds into a sound folder; what should be
    found.
    """
    train = root / "train"
    seeds = itertools.count(1000)
    expected = set()

    def fresh() -> Image.Image:
        return photo(next(seeds), COLOURS["sea"])

    def put(
        name: str, what: bytes | Image.Image, *kinds: str, **options: object
    ) -> None:
        path = root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            what.save(path, **options)
        expected.update((kind, name) for kind in kinds)

    def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    jpeg = encoded(fresh(), "JPEG")
    lossless = encoded(fresh(), "PNG")
    broken = bytearray(encoded(fresh(), "JPEG"))
    broken[-200:-100] = (
        np.random.default_rng(0)
        .integers(0, 255, 100, dtype=np.uint8)
        .tobytes()
        .replace(b"\xff", b"\0")
    )
    # files that cannot be decoded
    put("train/sea/empty.jpg", b"", "empty")
    put("train/sea/half.jpg", jpeg[: len(jpeg) // 2], "truncated")
    put("train/sea/half.png", lossless[: len(lossless) // 2], "truncated")
    put(
        "train/sea/no idat.png",
        png(struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0), b"junk"),
        "damaged",
    )
    put("train/sea/page.jpg", b"<html><body>404</body></html>", "no-image")
    put("train/sea/zeros.png", bytes(1000), "no-image")
    put(
        "train/sea/bomb.png",
        png(struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)),
        "huge",
    )
    put(
        "train/sea/bomb.gif",
        b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
        "huge",
    )
    put(
        "train/sea/float.tif",
        Image.fromarray(np.full((40, 40), 0.5, np.float32)),
        "damaged",
    )
    (train / "sea/loop.jpg").symlink_to("loop.jpg")
    (train / "sea/dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(train / "sea/pipe.jpg")
    expected.update(
        ("unreadable", f"train/sea/{name}.jpg") for name in ("loop", "dangling", "pipe")
    )
    # files that can, but should not be trusted
    put("train/sea/flawed.jpg", bytes(broken), "flawed")
    put("train/sea/dot.png", photo(1, (9, 9, 9), (1, 1)), "tiny", "flat")
    put("train/sea/strip.png", photo(next(seeds), COLOURS["sea"], (300, 3)), "tiny")
    put("train/sea/flat.png", Image.new("RGB", (90, 90), (40, 90, 190)), "flat")
    put("train/sea/cmyk.jpg", fresh().convert("CMYK"), "colour-space")
    put("train/sea/lab.tif", fresh().convert("LAB"), "colour-space")
    deep = np.asarray(fresh().convert("L"), np.uint16) * 257
    put("train/sea/deep.png", Image.fromarray(deep), "colour-space")
    palette = fresh().convert("P")
    put(
        "train/sea/palette.png",
        palette,
        "colour-space",
        transparency=palette.getpixel((0, 0)),
    )
    glass = fresh()
    glass.putalpha(Image.linear_gradient("L").resize(glass.size))
    put("train/sea/glass.png", glass, "transparent")
    put("train/sea/gray.jpg", fresh().convert("L"), "gray")
    exif = Image.Exif()
    exif[0x0112] = 6
    put("train/sea/lying.jpg", fresh(), "turned", exif=exif)
    put(
        "train/sea/film.gif",
        fresh(),
        "animated",
        save_all=True,
        append_images=[fresh()],
    )
    put(
        "train/sea/film.webp",
        fresh(),
        "animated",
        save_all=True,
        append_images=[fresh()],
    )
    put(
        "train/sea/pages.tiff",
        fresh(),
        "animated",
        save_all=True,
        append_images=[fresh()],
    )
    put("train/sea/png.jpg", encoded(fresh(), "PNG"), "wrong-ending")
    put("train/sea/jpeg.png", encoded(fresh(), "JPEG"), "wrong-ending")
    put("train/sea/webp.jpeg", encoded(fresh(), "WEBP"), "wrong-ending")
    put("train/sea/no ending", encoded(fresh(), "JPEG"), "wrong-ending")
    put("train/sea/notes.txt", b"where I was", "other-file")
    # copies: within a class, with other bytes, near ones, from train to test, under two
    # names

    def old(name: str) -> Image.Image:
        return Image.fromarray(decode_image(root / name))

    put("train/sea/00 copy.jpg", (train / "sea/00.jpg").read_bytes(), "duplicate")
    put("train/sea/01 saved.png", old("train/sea/01.jpg"), "duplicate")
    put("train/sea/02 again.jpg", old("train/sea/02.jpg"), "near-duplicate", quality=40)
    put(
        "train/sea/03 half.jpg",
        old("train/sea/03.jpg").resize((48, 40)),
        "near-duplicate",
    )
    put(
        "train/sea/04 bright.jpg",
        old("train/sea/04.jpg").point(lambda v: v * 1.15),
        "near-duplicate",
    )
    put("train/sea/05 large.webp", old("train/sea/05.jpg").resize((300, 250)))
    expected.add(("near-duplicate", "train/sea/05.jpg"))  # the larger one stays
    put("test/sea/leak.jpg", photo(2000, COLOURS["sea"]))
    put("train/sea/leaked.jpg", (root / "test/sea/leak.jpg").read_bytes(), "leak")
    put("train/sea/leaked.png", old("test/sea/00.jpg"), "leak")
    put("train/sea/leaked.webp", old("test/sea/01.jpg"), "near-leak", quality=60)
    for name in ("train/desert/both.jpg", "train/meadow/both.jpg"):
        put(name, encoded(photo(2001, COLOURS["meadow"]), "JPEG"), "label-conflict")
    for name in ("train/desert/other.png", "test/sea/other.png"):
        put(name, encoded(photo(2002, COLOURS["sea"]), "PNG"), "label-conflict")
    put(
        "train/meadow/near.jpg",
        photo(2003, COLOURS["meadow"]),
        "near-label-conflict",
        quality=90,
    )
    put(
        "train/sea/near.jpg",
        photo(2003, COLOURS["meadow"]),
        "near-label-conflict",
        quality=30,
    )
    # pictures of another class
    put("train/meadow/wrong.jpg", photo(2004, COLOURS["sea"]), "odd-label")
    put("test/desert/wrong.jpg", photo(2005, COLOURS["meadow"]), "odd-label")
    # folders
    (train / "vacant").mkdir()
    put("train/hopeless/a.jpg", b"no picture", "no-image")
    put(
        "train/phone/a.heic", b"what we cannot read, and so must not move", "other-file"
    )
    put("train/SEA /1.jpg", fresh())
    put("train/sea/deeper/1.jpg", fresh())
    put("train/stray.jpg", fresh(), "stray")
    put("train/readme.md", b"hello", "other-file")
    put("test/moon/1.jpg", fresh())
    put("extra/1.jpg", fresh())
    (train / "sea/back").symlink_to("..")
    (train / "loop").symlink_to(root, target_is_directory=True)
    put("train/sea/.hidden.jpg", b"")
    put("train/sea/Thumbs.db", b"")
    return expected | {
        ("empty-class", "train/vacant"), ("empty-class", "train/hopeless"), ("no-pictures", "train/phone"),
        ("rare-class", "train/SEA "), ("class-names", "train/sea"), ("nested", "train/sea/deeper"),
        ("unknown-class", "test/moon"), ("unused", "extra"), ("hidden", "train/sea/"),
        ("link-loop", "train/sea/back"), ("link-loop", "train/loop"),
    }  # fmt: skip


def test_a_sound_folder_has_no_findings(tmp_path: Path) -> None:
    check = check_folder(sound(tmp_path), workers=1)
    assert (check.findings, check.files, len(check.pictures)) == ((), 114, 114)


def test_planted_faults_are_found_and_nothing_else(tmp_path: Path) -> None:
    expected = plant(sound(tmp_path))
    told: list[tuple[int, int]] = []
    check = check_folder(
        tmp_path, workers=2, report=lambda *numbers: told.append(numbers)
    )
    assert found(check) ^ expected == set()
    assert len(expected) >= 60
    assert {kind for kind, _ in expected} >= set(KINDS) - {
        "no-access",
        "split-twice",
        "no-train",
        "one-class",
        "no-classes",
    }
    assert told == [(number, check.files) for number in range(1, check.files + 1)]
    severities = [finding.severity for finding in check.findings]
    assert severities == sorted(severities, key=module.SEVERITIES.index)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train/a", "train/b", "Train/a"), ("split-twice", "")),
        (("test/a", "test/b"), ("no-train", "")),
        ((), ("one-class", "")),
        (("a",), ("one-class", "")),
        (("train/a", "train/b", "val/c"), ("unknown-class", "val/c")),
        (("a", "b/c"), ("nested", "b/c")),
        (("a", "b/c"), ("no-pictures", "b")),
    ],
)
def test_what_is_wrong_with_folders(
    tmp_path: Path, folders: tuple[str, ...], expected: tuple[str, str]
) -> None:
    for seed, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            photo(10 * seed + number, COLOURS["sea"]).save(
                tmp_path / folder / f"{number}.png"
            )
    assert expected in found(check_folder(tmp_path, workers=1))


def test_pictures_without_classes_are_looked_at(tmp_path: Path) -> None:
    photo(1, COLOURS["sea"]).save(tmp_path / "1.png")
    photo(1, COLOURS["sea"]).save(tmp_path / "2.bmp")
    (tmp_path / "licences").mkdir()
    assert found(check_folder(tmp_path, workers=1)) == {
        ("no-classes", ""),
        ("duplicate", "2.bmp"),
    }


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match="there is no folder '.*nowhere': expected one with a sub folder",
    ):
        check_folder(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    sound(tmp_path)
    (tmp_path / "train/sea/00.jpg").chmod(0)
    (tmp_path / "test/sea").chmod(0)
    expected = {
        ("unreadable", "train/sea/00.jpg"),
        ("no-access", "test/sea/"),
        ("empty-class", "test/sea"),
    }
    assert found(check_folder(tmp_path, workers=1)) == expected


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_small_or_gray_pictures_among_such_are_no_fault(
    tmp_path: Path, mode: str
) -> None:
    for seed, (label, number) in enumerate(itertools.product(COLOURS, range(4))):
        (tmp_path / label).mkdir(exist_ok=True)
        photo(seed, COLOURS[label], (9, 8)).convert(mode).save(
            tmp_path / label / f"{number}.png"
        )
    assert check_folder(tmp_path, workers=1).findings == ()


def test_nor_are_pictures_of_a_phone_endings_in_capitals_and_the_same_bytes_in_another_shape(
    tmp_path: Path,
) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
    photo(1, COLOURS["sea"]).save(
        tmp_path / "a/1.jpg",
        "MPO",
        save_all=True,
        append_images=[photo(2, COLOURS["sea"])],
    )
    photo(3, COLOURS["sea"]).save(tmp_path / "a/2.JPG")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "b/1.png")
    Image.fromarray(pixels.reshape(60, 40, 3)).save(tmp_path / "b/2.Png")
    assert check_folder(tmp_path, workers=1).findings == ()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda: os._exit(3), "exit code 3"),
        (lambda: np.empty(2**33, np.uint8), "MemoryError"),
        (lambda: time.sleep(60), "longer than 1 seconds"),
    ],
)
def test_a_file_that_ends_its_process_is_a_finding(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], object],
    words: str,
) -> None:
    """Every other file is still looked at, once."""
    sound(tmp_path)
    bad = ["test/sea/03.jpg", "train/meadow/07.jpg", "train/sea/00.jpg"]
    decode = module.decode_image
    monkeypatch.setattr(
        module,
        "decode_image",
        lambda path: end() if str(path.relative_to(tmp_path)) in bad else decode(path),
    )
    monkeypatch.setattr(
        module, "survive", lambda *a, **k: map_isolated(*a, **k, patience=1.0)
    )
    check = check_folder(tmp_path, workers=2)
    assert [(f.kind, f.path) for f in check.findings] == [
        ("unreadable", name) for name in bad
    ]
    assert all(words in finding.message for finding in check.findings)
    assert (
        len({picture.path for picture in check.pictures}) == len(check.pictures) == 111
    )


def test_every_item_has_one_answer_however_many_die() -> None:
    answers = dict(map_isolated(_deadly, range(101), workers=3))
    assert sorted(answers) == list(range(101))
    assert {
        k for k, answer in answers.items() if isinstance(answer, WorkerFailure)
    } == set(range(0, 101, 7))
    assert all(answers[k] == -k for k in range(101) if k % 7)


def _deadly(number: int) -> int:
    if number % 14 == 0:
        os._exit(1)
    if number % 7 == 0:
        raise RuntimeError("no")
    return -number


def test_a_killed_parent_leaves_no_process_behind() -> None:
    """They hold the write ends of a pipe, which ends with the last of them."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        for _ in map_isolated(_deadly, range(1, 6), workers=3):
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert select.select([reading], [], [], 20)[0] == [reading]
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_no_close_pair_of_hashes_is_missed() -> None:
    """The bands find exactly what comparing all pairs finds."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    flips = [
        sum(1 << int(bit) for bit in rng.choice(64, count, replace=False))
        for count in rng.integers(0, 12, 300)
    ]
    one_in_each = sum(1 << (8 * band + band) for band in range(8))
    flips[:8] = [
        one_in_each ^ 1 << 9 * band for band in range(8)
    ]  # seven bits apart, and one band left to tell
    codes = rng.permutation(np.concatenate([codes, codes ^ np.array(flips, np.uint64)]))
    distance = np.bitwise_count(codes[:, None] ^ codes)
    expected = [
        tuple(pair) for pair in np.argwhere(np.triu(distance <= BITS, 1)).tolist()
    ]
    assert sorted(map(tuple, close_hashes(codes).tolist())) == expected
    assert len(expected) > 100


def test_copies_look_alike_and_others_do_not() -> None:
    pictures = [photo(seed, COLOURS["sea"], (400, 300)) for seed in range(200)]
    copies = [
        picture.resize((130, 100)).point(lambda v: 20 + v * 0.8).convert("L")
        for picture in pictures[:100]
    ]
    tiny = [
        np.asarray(x.convert("RGB").resize((16, 16), Image.Resampling.BOX))
        for x in (*pictures, *copies)
    ]
    assert alike(np.array(tiny)) == [[number, 200 + number] for number in range(100)]
    flat = np.repeat(np.arange(40, dtype=np.uint8), 768).reshape(40, 16, 16, 3)
    faint = (
        flat + (np.arange(16) > 7).astype(np.uint8)[:, None]
    )  # a step of one: such are all white walls
    assert alike(flat) == alike(faint) == alike(flat[:0]) == []
    assert hashes(flat[:0]).shape == (0,)


def test_flipped_labels_of_digits() -> None:
    """Real pictures: 1,797 digits of which 30 are given a wrong label; half of them are
    sure enough to be named.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(digits.target), 30, replace=False)
    labels = digits.target.astype(np.int64).copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, 30)) % 10
    odd = dict(odd_labels(digits.data, labels))
    right = {
        position for position, label in odd.items() if label == digits.target[position]
    }
    assert len(right & set(wrong.tolist())) >= 15
    assert len(odd.keys() - set(wrong.tolist())) <= 4  # that look like another digit
    rare = (rng.random(1797) < 0.2).astype(np.int64)
    assert (
        odd_labels(rng.normal(size=(1797, 64)), rare) == []
    )  # features that know nothing accuse no one


def test_features_that_are_handed_in_judge_the_labels(tmp_path: Path) -> None:
    """Where the colours say nothing, and with some that have none."""
    sound(tmp_path, train=20)

    def features(paths: Sequence[Path]) -> list[np.ndarray | None]:
        noise = np.random.default_rng(0).random((len(paths), 3))
        names = [path.relative_to(tmp_path).as_posix() for path in paths]
        classes = [
            1
            if name == "train/meadow/05.jpg"
            else list(COLOURS).index(name.split("/")[1])
            for name in names
        ]
        known = [
            None if name.endswith("06.jpg") else 9 * np.eye(3)[k]
            for name, k in zip(names, classes, strict=True)
        ]
        return [None if x is None else x + y for x, y in zip(known, noise, strict=True)]

    check = check_folder(tmp_path, workers=1, features=features)
    assert found(check) == {("odd-label", "train/meadow/05.jpg")}
    assert (
        check.findings[0].message
        == "is in meadow, but all ten pictures most like it are in sea"
    )


def test_photos_raise_no_false_alarm(shared: Path, tmp_path: Path) -> None:
    """2,800 photos of ten classes in two splits, and 30 of all shapes: nothing but
    notes, of gray ones.
    """
    with tarfile.open(shared / "data/photos/imagenette224_sub.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    check = check_folder(tmp_path / "imagenette224", workers=2)
    assert (check.files, len(check.pictures), {f.kind for f in check.findings}) == (
        2800,
        2800,
        {"gray"},
    )
    check = check_folder(shared / "data/photos", workers=2)
    assert (len(check.pictures), {f.kind for f in check.findings}) == (
        30,
        {"gray", "other-file"},
    )


def test_odd_files_are_judged_as_a_right_loader_would(shared: Path) -> None:
    folder = shared / "data/bad_images"
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        expect = {row["file"]: row["expect"] for row in csv.DictReader(file)}
    check = check_folder(folder, workers=2)
    refused = {
        finding.path for finding in check.findings if finding.severity == "error"
    }
    said = {finding.path for finding in check.findings}
    assert {name for name in expect if expect[name] == "reject"} <= refused | {
        "test-ole-file.doc"
    } & said
    assert not {name for name in expect if expect[name] == "accept"} & refused
    copies = {
        f.path for f in check.findings if "duplicate" in f.kind and "hopper" in f.path
    }
    assert len(copies) >= 15  # one scene in all formats, turned by EXIF too
    assert describe(check.pictures[0].tiny[None]).shape == (1, 192)
