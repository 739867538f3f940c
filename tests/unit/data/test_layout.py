"""Which folders are splits and which are classes, as people have them.

What is refused is refused by the reader and by the check alike, in one sentence.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.check import check_folder
from mlp_mixer.data import open_dataset
from mlp_mixer.data.layout import walk
from mlp_mixer.errors import UserError
from mlp_mixer.images import decode, opening


def plant(root: Path, *names: str) -> Path:
    """Write small pictures, each another one; other endings get other bytes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() != ".png":
            path.write_bytes(b"no picture")
            continue
        rng = np.random.default_rng(list(os.fsencode(name)))
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return root


def both(root: Path) -> str:
    """Return the sentence of the reader; the check must have an error as well."""
    errors = [
        f for f in check_folder(root, workers=1).findings if f.severity == "error"
    ]
    try:
        open_dataset(f"folder:{root}")
    except UserError as error:
        assert errors, "the check sees nothing"
        return str(error)
    assert not errors, errors
    return ""


def classes(*labels: str, of: int = 2) -> list[str]:
    return [f"{label}/{number}.png" for label in labels for number in range(of)]


@pytest.mark.parametrize(
    "labels",
    [
        ("bus", "car", "train"),
        ("test", "tube"),
        ("Val", "hill", "river"),
        ("dev", "office", "eval", "training"),
    ],
)
def test_a_class_may_have_the_name_of_a_split(
    tmp_path: Path, labels: tuple[str]
) -> None:
    plant(tmp_path, *classes(*labels))
    assert both(tmp_path) == ""
    assert set(open_dataset(f"folder:{tmp_path}").train.classes) == set(labels)
    assert check_folder(tmp_path, workers=1).movable() == []


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "dev", "eval"), (2, 2, 2)),
        (("training", "testing"), (2, 0, 2)),
        (("TRAIN", "Valid", "Evaluation"), (2, 2, 2)),
    ],
)
def test_other_words_for_splits(
    tmp_path: Path, folders: tuple[str], splits: tuple[int]
) -> None:
    plant(tmp_path, *classes(*(f"{name}/{k}" for name in folders for k in "ab"), of=1))
    assert both(tmp_path) == ""
    dataset = open_dataset(f"folder:{tmp_path}")
    found = (dataset.train, dataset.val, dataset.test)
    assert tuple(0 if part is None else len(part) for part in found) == splits


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            classes("photos/cat", "photos/dog"),
            "photos' .*did you mean folder:.*/photos",
        ),
        (classes("a/b/c/x", "a/b/c/y"), r"did you mean folder:.*/a/b/c\?"),
        (classes("x/train/a", "x/train/b", "x/val/a"), "did you mean folder:.*/x"),
        (
            classes("2023/cat", "2023/dog", "2024/cat"),
            "2023' and '2024' hold folders of the same names .*call them train, val",
        ),
        (
            [*classes("train/a", "train/b"), "test/1.png", "test/2.png"],
            "test' has pictures but no folders of classes: .*training images alone",
        ),
        (["train/1.png", "test/2.png"], "train' has pictures but no folders of cla"),
        (
            [*classes("a", "b"), "a/more/1.png"],
            "a/more' is a folder in the class 'a': move .* folder:.*/a",
        ),
        ([*classes("a", "b"), "x.png"], "x.png' lies outside of any class"),
        (classes("train/a", "train/b", "val/a", "dev/a"), r"split 'val' \(dev and val"),
        (
            [*classes("a", "b"), "c/1.cr2"],
            "c' has no images, only 1 .cr2 .*develop raw photos",
        ),
    ],
)
def test_what_is_refused_says_what_was_meant(
    tmp_path: Path, files: list[str], sentence: str
) -> None:
    plant(tmp_path, *files)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence):
        raise UserError(both(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "extra",
    [
        "lost+found/x.png",
        "a/@eaDir/0.png/SYNOPHOTO.png",
        "$RECYCLE.BIN/1.png",
        "#recycle/1.png",
        ".ipynb_checkpoints/1.png",
        "__MACOSX/a/._0.png",
        "a/Thumbs.db",
    ],
)
def test_what_systems_leave_behind_is_no_class(tmp_path: Path, extra: str) -> None:
    plant(tmp_path, *classes("a", "b"), extra)
    assert both(tmp_path) == ""
    assert open_dataset(f"folder:{tmp_path}").all().classes == ("a", "b")


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("empty", ["", "a", "never seen"])
def test_an_empty_class_to_be_judged_by_is_harmless(
    tmp_path: Path, split: str, empty: str
) -> None:
    plant(tmp_path, *classes("train/a", "train/b"))
    (tmp_path / split / empty).mkdir(parents=True)
    assert both(tmp_path) == ""
    plant(tmp_path, f"{split}/b/1.png")
    assert both(tmp_path) == ""
    test = open_dataset(f"folder:{tmp_path}").test
    assert test is not None
    assert len(test) == 1


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where pillow-heif is not installed."""
    monkeypatch.setattr(opening, "FORMATS", tuple(set(decode.FORMATS) - {"HEIF"}))
    decode.image_extensions.cache_clear()
    yield
    decode.image_extensions.cache_clear()


@pytest.mark.usefixtures("without_heif")
def test_a_class_of_heic_alone_asks_for_its_library(tmp_path: Path) -> None:
    plant(tmp_path, *classes("a", "b"), "c/1.heic")
    assert "c' has no images, only 1 .heic" in both(tmp_path)
    assert "pip install pillow-heif" in both(tmp_path)


def test_pictures_of_telephones_are_counted_where_they_can_be_read(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pillow_heif")
    plant(tmp_path, *classes("a", "b", of=4), "a/1.HEIC", "b/2.heic")
    data = open_dataset(str(tmp_path))
    assert data.passed_over == ""
    assert len(data.all()) == 10


@pytest.mark.usefixtures("without_heif")
def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    plant(tmp_path, *classes("a", "b", of=4))
    assert open_dataset(str(tmp_path)).passed_over == ""
    plant(tmp_path, "a/1.HEIC", "a/2.heic", "b/3.svg", "b/notes", "b/.DS_Store", "R.md")
    text = open_dataset(str(tmp_path)).passed_over
    assert text.startswith(
        "2 .heic, 1 without ending, 1 .md, 1 .svg (.heic: pip install"
    )
    found = check_folder(tmp_path, workers=1).findings
    passed = [f.message for f in found if f.kind == "passed-over"]
    assert len(passed) == 2
    assert {f.severity for f in found if f.kind == "passed-over"} == {"warning"}
    assert "has 2 files .heic" in passed[0]


def test_folders_and_pictures_beside_the_splits_are_named(tmp_path: Path) -> None:
    plant(tmp_path, *classes("train/a", "train/b", "holdout/a"), "cover.png")
    assert open_dataset(str(tmp_path)).passed_over == "1 .png, folder 'holdout'"
    kinds = {(f.kind, f.path) for f in check_folder(tmp_path, workers=1).findings}
    assert {("unused", "holdout"), ("unused", "cover.png")} <= kinds


def test_one_name_in_two_spellings_is_one_class(tmp_path: Path) -> None:
    for name in ("café", "naïve", "Zürich"):
        composed = unicodedata.normalize("NFC", name)
        apart = unicodedata.normalize("NFD", name)
        root = tmp_path / name
        plant(root, *classes(f"train/{composed}", "train/b", f"val/{apart}"))
        assert both(root) == ""
        test = open_dataset(f"folder:{root}").test
        assert test is not None
        assert test.classes == tuple(sorted(["b", composed]))


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize("name", [b"v\xe9lo", b"\xff", b"caf\x82"])
def test_a_class_that_is_not_utf8_is_refused_before_anything(
    tmp_path: Path, name: bytes
) -> None:
    plant(tmp_path, *classes("a", os.fsdecode(name)))
    with pytest.raises(UserError, match="a class whose name is not UTF-8.*rename"):
        raise UserError(both(tmp_path))


def test_files_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    plant(tmp_path, *classes("a", "b"), os.fsdecode(b"a/\xff.png"))
    assert both(tmp_path) == ""


def test_fix_keeps_a_class_that_is_a_copy_of_another(tmp_path: Path) -> None:
    plant(tmp_path, *classes("cat", "cats", "dog", of=3))
    for number in range(3):
        image = (tmp_path / f"cat/{number}.png").read_bytes()
        (tmp_path / f"cats/{number}.png").write_bytes(image)
    check = check_folder(tmp_path, workers=1)
    assert sum(f.kind == "label-conflict" for f in check.findings) == 6
    assert check.movable() == []


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    plant(tmp_path, *classes("a", "b"))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    assert "leads back up" in both(tmp_path)
    assert {fault.kind for fault in walk(tmp_path).faults} == {"link-loop"}
