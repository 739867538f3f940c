"""What `check_folder` finds among planted faults, and does not find in sound folders."""

from __future__ import annotations

import csv
import io
import itertools
import os
import signal
import struct
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.check import KINDS, SEVERITIES, Check, check_folder
from mlp_mixer.check import folder as folder_module
from mlp_mixer.check import picture as picture_module
from mlp_mixer.check.isolated import map_isolated
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import decode_image

Photo = Callable[..., Image.Image]
Write = Callable[..., Path]


def found(check: Check) -> set[tuple[str, str]]:
    return {(finding.kind, finding.path) for finding in check.findings}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG whose header has this size, whatever its data hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        whole += struct.pack(">I", len(content)) + kind + content + checksum
    return whole


class Planter:
    """Puts faults of all kinds into a sound folder, and remembers what is expected."""

    def __init__(self, root: Path, photo: Photo) -> None:
        self.root = root
        self.photo = photo
        self.seeds = itertools.count(1000)
        self.expected: set[tuple[str, str]] = set()

    def fresh(self) -> Image.Image:
        return self.photo(next(self.seeds), "sea")

    def old(self, name: str) -> Image.Image:
        return Image.fromarray(decode_image(self.root / name))

    def expect(self, kind: str, *paths: str) -> None:
        self.expected |= {(kind, path) for path in paths}

    def put(
        self, name: str, what: bytes | Image.Image, *kinds: str, **options: Any
    ) -> None:
        """Write bytes or a picture, which should be a finding of these kinds."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            what.save(path, **options)
        for kind in kinds:
            self.expect(kind, name)

    def plant_unreadable_files(self) -> None:
        jpeg = encoded(self.fresh(), "JPEG")
        lossless = encoded(self.fresh(), "PNG")
        gif = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6)
        gif += b",\0\0\0\0\xff\xff\xff\xff\0\2\0;"
        halves = Image.fromarray(np.full((40, 40), 0.5, np.float32))
        self.put("train/sea/empty.jpg", b"", "empty")
        self.put("train/sea/half.jpg", jpeg[: len(jpeg) // 2], "truncated")
        self.put("train/sea/half.png", lossless[: len(lossless) // 2], "truncated")
        self.put("train/sea/no idat.png", png(9, 9, b"junk"), "damaged")
        self.put("train/sea/page.jpg", b"<html><body>404</body></html>", "no-image")
        self.put("train/sea/zeros.png", bytes(1000), "no-image")
        self.put("train/sea/bomb.png", png(30000, 30000), "huge")
        self.put("train/sea/bomb.gif", gif, "huge")
        self.put("train/sea/float.tif", halves, "damaged")
        sea = self.root / "train/sea"
        (sea / "loop.jpg").symlink_to("loop.jpg")
        (sea / "dangling.jpg").symlink_to("nowhere.jpg")
        os.mkfifo(sea / "pipe.jpg")
        for name in ("loop", "dangling", "pipe"):
            self.expect("unreadable", f"train/sea/{name}.jpg")

    def plant_odd_pictures(self) -> None:
        broken = bytearray(encoded(self.fresh(), "JPEG"))
        noise = np.random.default_rng(0).integers(0, 255, 100, dtype=np.uint8)
        # Without markers, which would make the file unreadable rather than flawed.
        broken[-200:-100] = noise.tobytes().replace(b"\xff", b"\0")
        strip = self.photo(next(self.seeds), "sea", (300, 3))
        self.put("train/sea/flawed.jpg", bytes(broken), "flawed")
        dot = Image.new("RGB", (1, 1), (9, 9, 9))
        self.put("train/sea/dot.png", dot, "tiny", "flat")
        self.put("train/sea/strip.png", strip, "tiny")
        flat = Image.new("RGB", (90, 90), (40, 90, 190))
        self.put("train/sea/flat.png", flat, "flat")
        self.put("train/sea/cmyk.jpg", self.fresh().convert("CMYK"), "colour-space")
        self.put("train/sea/lab.tif", self.fresh().convert("LAB"), "colour-space")
        deep = np.asarray(self.fresh().convert("L"), np.uint16) * 257
        self.put("train/sea/deep.png", Image.fromarray(deep), "colour-space")
        twelve = np.asarray(self.fresh().convert("L"), np.uint16) * 16
        dark = Image.fromarray(twelve)
        self.put("train/sea/x-ray.png", dark, "colour-space", "dark")
        palette = self.fresh().convert("P")
        clear = palette.getpixel((0, 0))
        name = "train/sea/palette.png"
        self.put(name, palette, "colour-space", transparency=clear)
        glass = self.fresh()
        glass.putalpha(Image.linear_gradient("L").resize(glass.size))
        self.put("train/sea/glass.png", glass, "transparent")
        self.put("train/sea/gray.jpg", self.fresh().convert("L"), "gray")
        exif = Image.Exif()
        exif[0x0112] = 6
        self.put("train/sea/lying.jpg", self.fresh(), "turned", exif=exif)

    def plant_files_of_other_kinds(self) -> None:
        for name in ("film.gif", "film.webp", "pages.tiff"):
            frames = {"save_all": True, "append_images": [self.fresh()]}
            self.put(f"train/sea/{name}", self.fresh(), "animated", **frames)
        for name, kind in (
            ("png.jpg", "PNG"),
            ("jpeg.png", "JPEG"),
            ("webp.jpeg", "WEBP"),
            ("no ending", "JPEG"),
        ):
            data = encoded(self.fresh(), kind)
            self.put(f"train/sea/{name}", data, "wrong-ending")
        self.put("train/sea/notes.txt", b"where I was", "other-file")

    def plant_copies(self) -> None:
        """Within a class, with other bytes, near ones, from train to test."""
        same = (self.root / "train/sea/00.jpg").read_bytes()
        half = self.old("train/sea/03.jpg").resize((48, 40))
        bright = self.old("train/sea/04.jpg").point(lambda v: v * 1.15)
        large = self.old("train/sea/05.jpg").resize((300, 250))
        again = self.old("train/sea/02.jpg")
        self.put("train/sea/00 copy.jpg", same, "duplicate")
        self.put("train/sea/01 saved.png", self.old("train/sea/01.jpg"), "duplicate")
        self.put("train/sea/02 again.jpg", again, "near-duplicate", quality=40)
        self.put("train/sea/03 half.jpg", half, "near-duplicate")
        self.put("train/sea/04 bright.jpg", bright, "near-duplicate")
        # The larger one stays.
        self.put("train/sea/05 large.webp", large)
        self.expect("near-duplicate", "train/sea/05.jpg")
        self.put("test/sea/leak.jpg", self.photo(2000, "sea"))
        leak = (self.root / "test/sea/leak.jpg").read_bytes()
        near = self.old("test/sea/01.jpg")
        self.put("train/sea/leaked.jpg", leak, "leak")
        self.put("train/sea/leaked.png", self.old("test/sea/00.jpg"), "leak")
        self.put("train/sea/leaked.webp", near, "near-leak", quality=60)

    def plant_wrong_labels(self) -> None:
        """The same picture in two classes, and pictures of another class."""
        both = encoded(self.photo(2001, "meadow"), "JPEG")
        other = encoded(self.photo(2002, "sea"), "PNG")
        near = self.photo(2003, "meadow")
        conflict = "near-label-conflict"
        self.put("train/desert/both.jpg", both, "label-conflict")
        self.put("train/meadow/both.jpg", both, "label-conflict")
        self.put("train/desert/other.png", other, "label-conflict")
        self.put("test/sea/other.png", other, "label-conflict")
        self.put("train/meadow/near.jpg", near, conflict, quality=90)
        self.put("train/sea/near.jpg", near, conflict, quality=30)
        self.put("train/meadow/wrong.jpg", self.photo(2004, "sea"), "odd-label")
        self.put("test/desert/wrong.jpg", self.photo(2005, "meadow"), "odd-label")

    def plant_folders(self) -> None:
        train = self.root / "train"
        (train / "vacant").mkdir()
        self.expect("empty-class", "train/vacant", "train/hopeless")
        self.put("train/hopeless/a.jpg", b"no picture", "no-image")
        # A file that cannot be read here is no reason to move its class.
        self.put("train/phone/a.cr2", b"of a camera", "other-file")
        self.expect("no-pictures", "train/phone")
        self.expect("passed-over", "")
        self.put("train/SEA /1.jpg", self.fresh())
        self.expect("rare-class", "train/SEA ")
        self.expect("class-names", "train/sea")
        self.put("train/sea/deeper/1.jpg", self.fresh())
        self.expect("nested", "train/sea/deeper")
        self.put("train/stray.jpg", self.fresh(), "stray")
        self.put("train/readme.md", b"hello", "other-file")
        self.put("test/moon/1.jpg", self.fresh())
        self.expect("unknown-class", "test/moon")
        self.put("extra/1.jpg", self.fresh())
        self.expect("unused", "extra")
        (train / "sea/back").symlink_to("..")
        (train / "loop").symlink_to(self.root, target_is_directory=True)
        self.expect("link-loop", "train/sea/back", "train/loop")
        self.put("train/sea/.hidden.jpg", b"")
        self.put("train/sea/Thumbs.db", b"")
        self.expect("hidden", "train/sea/")


# These are about the folder as a whole, and are tested in test_walk.py.
OF_WHOLE_FOLDERS = {
    "bad-name",
    "flat-split",
    "no-access",
    "no-classes",
    "no-train",
    "one-class",
    "split-twice",
    "unknown-split",
    "vacant-class",
    "wrapped",
}


def test_a_sound_folder_has_no_findings(tmp_path: Path, write_sound: Write) -> None:
    check = check_folder(write_sound(tmp_path), workers=1)
    assert check.findings == ()
    assert check.files == len(check.pictures) == 114


def test_planted_faults_are_found_and_nothing_else(
    tmp_path: Path, write_sound: Write, photo: Photo
) -> None:
    planter = Planter(write_sound(tmp_path), photo)
    planter.plant_unreadable_files()
    planter.plant_odd_pictures()
    planter.plant_files_of_other_kinds()
    planter.plant_copies()
    planter.plant_wrong_labels()
    planter.plant_folders()
    told: list[tuple[int, int]] = []
    check = check_folder(
        tmp_path, workers=2, report=lambda done, total: told.append((done, total))
    )
    assert found(check) ^ planter.expected == set()
    assert len(planter.expected) >= 60
    planted_kinds = {kind for kind, _ in planter.expected}
    # A small class among large ones is called rare; the next test has small ones. Bands
    # are planted in tests/unit/data/test_bands.py.
    elsewhere = OF_WHOLE_FOLDERS | {"few-pictures", "bands"}
    assert planted_kinds >= set(KINDS) - elsewhere
    assert told == [(number, check.files) for number in range(1, check.files + 1)]
    severities = [finding.severity for finding in check.findings]
    assert severities == sorted(severities, key=SEVERITIES.index)


def test_classes_of_fewer_than_ten_pictures_are_warned_of(
    tmp_path: Path, write_sound: Write
) -> None:
    write_sound(tmp_path, train=10, test=2)
    assert check_folder(tmp_path, workers=1).findings == ()
    (tmp_path / "train/sea/00.jpg").unlink()
    (finding,) = check_folder(tmp_path, workers=1).findings
    assert (finding.kind, finding.path) == ("few-pictures", "train/sea")
    assert finding.severity == "warning"
    assert "9 pictures" in finding.message


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    expected = "there is no folder '.*nowhere': expected one with a sub folder"
    with pytest.raises(UserError, match=expected):
        check_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_small_or_gray_pictures_among_such_are_no_fault(
    tmp_path: Path, photo: Photo, mode: str
) -> None:
    seeds = itertools.count()
    for label in ("meadow", "sea", "desert"):
        (tmp_path / label).mkdir()
        for number in range(10):
            picture = photo(next(seeds), label, (9, 8)).convert(mode)
            picture.save(tmp_path / label / f"{number}.png")
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
    write_sound: Write,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], object],
    words: str,
) -> None:
    """Every other file is still looked at, once."""
    write_sound(tmp_path)
    bad = ["test/sea/03.jpg", "train/meadow/07.jpg", "train/sea/00.jpg"]

    def deadly(path: Path, **options: Any) -> Any:
        if str(path.relative_to(tmp_path)) in bad:
            end()
        return decode_image(path, **options)

    def with_a_short_limit(*args: Any, **options: Any) -> Any:
        return map_isolated(*args, **options, patience=1.0)

    monkeypatch.setattr(picture_module, "decode_image", deadly)
    monkeypatch.setattr(folder_module, "map_isolated", with_a_short_limit)
    check = check_folder(tmp_path, workers=2)
    findings = [(finding.kind, finding.path) for finding in check.findings]
    assert findings == [("unreadable", name) for name in bad]
    assert all(words in finding.message for finding in check.findings)
    paths = [picture.path for picture in check.pictures]
    assert len(set(paths)) == len(paths) == 111


def test_photos_raise_no_false_alarm(shared: Path, tmp_path: Path) -> None:
    """2,800 photos of ten classes have notes of gray ones only; of 30 photos of all
    shapes in a few folders it is said besides that they are few.
    """
    with tarfile.open(shared / "data/photos/imagenette224_sub.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    check = check_folder(tmp_path / "imagenette224", workers=2)
    assert check.files == len(check.pictures) == 2800
    assert {finding.kind for finding in check.findings} == {"gray"}
    check = check_folder(shared / "data/photos", workers=2)
    assert len(check.pictures) == 30
    kinds = {finding.kind for finding in check.findings}
    # An archive of pictures lies beside them.
    assert kinds == {"gray", "other-file", "few-pictures", "passed-over"}


def test_odd_files_are_treated_as_a_right_loader_would(shared: Path) -> None:
    folder = shared / "data/bad_images"
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        expect = {row["file"]: row["expect"] for row in csv.DictReader(file)}
    check = check_folder(folder, workers=2)
    errors = set()
    paths = set()
    copies = set()
    for finding in check.findings:
        paths.add(finding.path)
        if finding.severity == "error":
            errors.add(finding.path)
        if "duplicate" in finding.kind and "hopper" in finding.path:
            copies.add(finding.path)
    rejected = {name for name in expect if expect[name] == "reject"}
    accepted = {name for name in expect if expect[name] == "accept"}
    # It has no ending of an image, so it is only a note.
    assert rejected - errors <= {"test-ole-file.doc"} & paths
    assert not accepted & errors
    # One scene in all formats, turned by EXIF too.
    assert len(copies) >= 15
