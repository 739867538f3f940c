"""Hugging Face data sets, played by a minimal stand-in for the library (what it must do
was read off version 5).
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from mlp_mixer.data import open_dataset
from mlp_mixer.data.loader import EvalBatches, stream
from mlp_mixer.errors import UserError
from mlp_mixer.images.preprocess import Preprocess


@dataclass
class Image:
    decode: bool = True


@dataclass
class ClassLabel:
    names: list[str]


@dataclass
class Value:
    dtype: str


class Table:
    """What is used of `datasets.Dataset`."""

    def __init__(
        self, features: dict[str, Any], columns: dict[str, Any], as_numpy: bool = False
    ) -> None:
        self.features = features
        self.columns = columns
        self.as_numpy = as_numpy

    def select_columns(self, names: list[str]) -> Table:
        chosen = (
            {name: part[name] for name in names}
            for part in (self.features, self.columns)
        )
        return Table(*chosen)

    def cast_column(self, name: str, feature: Any) -> Table:
        return Table({**self.features, name: feature}, self.columns)

    def with_format(self, kind: str) -> Table:
        assert kind == "numpy"
        return Table(self.features, self.columns, as_numpy=True)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        if key == slice(None):
            assert self.as_numpy
            return {name: np.asarray(column) for name, column in self.columns.items()}
        assert type(key) is int
        assert not any(
            isinstance(feature, Image) and feature.decode
            for feature in self.features.values()
        )
        return {name: column[key] for name, column in self.columns.items()}


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (3, 2), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(
    *reds: int, image: str = "image", label: str = "label", secret: bool = False
) -> Table:
    features = {"id": Value("int64"), image: Image(), label: ClassLabel(["cat", "dog"])}
    cells = [{"bytes": png(red), "path": f"{red}.png"} for red in reds]
    labels = [-1 if secret else red % 2 for red in reds]
    return Table(features, {"id": list(reds), image: cells, label: labels})


@dataclass
class Library:
    """The stand-in and what it was asked for."""

    hub: dict[tuple[str, str | None], Any]
    asked: list[tuple[Any, ...]]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library({}, [])
    module: Any = types.ModuleType("datasets")
    module.Image, module.ClassLabel = Image, ClassLabel
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(name: str, config: str | None, *, split: str | None) -> Any:
        found.asked.append((name, config, split))
        if (name, config) not in found.hub:
            raise FileNotFoundError(f"Couldn't find any data file at\n{name}")
        answer = found.hub[name, config]
        return answer[split] if split else answer

    def load_from_disk(path: str) -> Any:
        found.asked.append((path,))
        return found.hub[path, None]

    module.load_dataset, module.load_from_disk = load_dataset, load_from_disk
    monkeypatch.setitem(sys.modules, "datasets", module)
    for name in ("MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return found


def reds(images: Any) -> list[int]:
    return [int(images.image(index)[0, 0, 0]) for index in range(len(images))]


def test_splits_classes_and_names(library):
    library.hub["owner/pets", None] = {
        "train": table(1, 2, 3),
        "validation": table(4, 5),
        "test": table(6),
    }
    source = open_dataset("hf:owner/pets")
    assert [reds(part) for part in (source.train, source.val, source.test)] == [
        [1, 2, 3],
        [4, 5],
        [6],
    ]
    assert (source.train.classes, source.train.labels.tolist()) == (
        ("cat", "dog"),
        [1, 0, 1],
    )
    assert (source.train.name(2), source.val.name(0), source.test.name(0)) == (
        "train/2",
        "val/0",
        "test/0",
    )
    assert source.train.encoded(1) == png(2)
    assert library.asked == [("owner/pets", None, None)]


def test_configuration_and_split(library):
    library.hub["owner/pets", "small"] = {
        "train[:3]": table(*range(10)),
        "extra": table(1),
    }
    source = open_dataset("hf:owner/pets:small,split=train[:3]")
    assert source.held_out == (0.2, 0)
    part = source.train.subset([5, 2])
    assert [reds(part)[0], part.name(0)] == [
        source.train.image(5)[0, 0, 0],
        source.train.name(5),
    ]
    assert sorted(reds(source.all())) == list(range(10))
    assert library.asked == [("owner/pets", "small", "train[:3]")]
    with pytest.raises(
        UserError,
        match=r"has the splits train\[:3\], extra, and none is train: choose with ,split=",
    ):
        open_dataset("hf:owner/pets:small")


@pytest.mark.parametrize("file", ["dataset_dict.json", "state.json"])
def test_what_save_to_disk_left(library, tmp_path, file):
    (tmp_path / file).write_text("{}")
    flat = file == "state.json"
    library.hub[str(tmp_path), None] = (
        table(1, 2, 3, 4) if flat else {"train": table(1, 2, 3), "test": table(4)}
    )
    source = open_dataset(f"hf:{tmp_path}")
    assert reds(source.all() if flat else source.train) == (
        [1, 2, 3, 4] if flat else [1, 2, 3]
    )
    if not flat:
        assert reds(open_dataset(f"hf:{tmp_path},split=test").train) == [4]
    assert all(asked == (str(tmp_path),) for asked in library.asked)


def test_a_folder_of_files_is_left_to_the_library(library, tmp_path):
    library.hub[str(tmp_path), None] = {"train": table(1, 2)}
    assert reds(open_dataset(f"hf:{tmp_path}").train) == [1, 2]


def test_secret_labels(library):
    library.hub["imagenet", None] = {
        "train": table(1, 2),
        "validation": table(3),
        "test": table(4, 5, secret=True),
    }
    source = open_dataset("hf:imagenet")
    assert (reds(source.test), source.val) == ([3], None)
    library.hub["imagenet", None] = {"train": table(1, 2, secret=True)}
    with pytest.raises(
        UserError, match="cannot use train of hf:imagenet: labels go from -1 to -1"
    ):
        open_dataset("hf:imagenet")


def test_columns(library):
    several = table(1, 2, image="img", label="fine_label")
    several.features["coarse_label"], several.columns["coarse_label"] = (
        ClassLabel(["pet"]),
        [0, 0],
    )
    library.hub["cifar100", None] = {"train": several}
    assert open_dataset("hf:cifar100").train.classes == ("cat", "dog")
    assert open_dataset("hf:cifar100,label=coarse_label").train.classes == ("pet",)
    with pytest.raises(
        UserError,
        match="unknown ClassLabel column of hf:cifar100,label=fine 'fine'; known are coarse_label, fine",
    ):
        open_dataset("hf:cifar100,label=fine")
    with pytest.raises(
        UserError,
        match="unknown Image column of hf:cifar100,image=id 'id'; known are img",
    ):
        open_dataset("hf:cifar100,image=id")
    del several.features["fine_label"]
    several.features |= {"other": ClassLabel(["a"])}
    with pytest.raises(
        UserError,
        match="has the ClassLabel columns coarse_label, other: choose with ,label=",
    ):
        open_dataset("hf:cifar100")
    several.features["photo"] = several.features.pop("img")
    several.features["mask"] = Image()
    with pytest.raises(
        UserError, match="has the Image columns photo, mask: choose with ,image="
    ):
        open_dataset("hf:cifar100")


def test_no_images(library):
    library.hub["glue", None] = {
        "train": Table({"text": Value("string")}, {"text": ["a"]})
    }
    with pytest.raises(
        UserError,
        match=r"hf:glue has the Image columns \(none\): it is not for image classification",
    ):
        open_dataset("hf:glue")


def test_images_in_files(library, tmp_path):
    (tmp_path / "1.png").write_bytes(png(7))
    there = table(1, 2)
    there.columns["image"] = [
        {"bytes": None, "path": str(tmp_path / name)} for name in ("1.png", "2.png")
    ]
    library.hub["x", None] = {"train": there, "test": there}
    images = open_dataset("hf:x").train
    assert images.image(0)[0, 0, 0] == 7
    with pytest.raises(
        UserError, match="cannot read the image 'train/1': FileNotFoundError, .*2.png"
    ):
        images.image(1)
    there.columns["image"] = [{"bytes": b"none", "path": None}, None]
    images = open_dataset("hf:x").train
    with pytest.raises(
        UserError, match="'train/0': the image is not an image in a known format"
    ):
        images.image(0)
    with pytest.raises(UserError, match="cannot read the image 'train/1': TypeError"):
        images.image(1)


def test_two_names_for_one_split(library):
    library.hub["x", None] = {
        "train": table(1),
        "valid": table(2),
        "validation": table(3),
    }
    with pytest.raises(
        UserError, match="hf:x has two splits for val: choose with ,split="
    ):
        open_dataset("hf:x")


def test_the_library_refuses(library):
    with pytest.raises(
        UserError,
        match="cannot open hf:nowhere: FileNotFoundError, Couldn't find any data file at now",
    ):
        open_dataset("hf:nowhere")
    with pytest.raises(
        UserError, match="unknown option of hf 'spilt'; did you mean 'split'"
    ):
        open_dataset("hf:x,spilt=train")
    with pytest.raises(
        UserError, match="no path after the colon of 'hf:': expected hf:PATH"
    ):
        open_dataset("hf:")


def break_labels(broken: Table) -> None:
    broken.columns["label"] = None
    broken.select_columns = None  # type: ignore[assignment]


@pytest.mark.parametrize("change", [break_labels])
def test_a_table_that_cannot_be_read(library, change: Callable[[Table], None]):
    broken = table(1, 2)
    change(broken)
    library.hub["x", None] = {"train": broken}
    with pytest.raises(UserError, match="cannot read train of hf:x: TypeError"):
        open_dataset("hf:x")


def test_offline(library, monkeypatch, tmp_path):
    """The library reads its own switch when it is imported; ours must not be
    overlooked.
    """
    library.hub["x", None] = library.hub[str(tmp_path), None] = {"train": table(1, 2)}
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    open_dataset(f"hf:{tmp_path}")
    with pytest.raises(
        UserError,
        match="cannot open hf:x: the network is switched off; set HF_HUB_OFFLINE=1, too",
    ):
        open_dataset("hf:x")
    monkeypatch.setattr(sys.modules["datasets"].config, "HF_HUB_OFFLINE", True)
    open_dataset("hf:x")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError,
        match=r"hf: needs the library datasets .*: pip install 'mlp-mixer\[datasets\]'",
    ):
        open_dataset("hf:owner/pets")


def test_workers(library):
    library.hub["x", None] = {"train": table(*range(6)), "test": table(1)}
    images = open_dataset("hf:x").train
    batches = list(
        stream(
            EvalBatches(images, Preprocess((2, 3), crop_pct=1.0), 2),
            range(3),
            workers=1,
        )
    )
    assert [int(red) for batch in batches for red in batch.images[:, 0, 0, 0]] == list(
        range(6)
    )
