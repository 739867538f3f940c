"""Datasets of Hugging Face, with a minimal stand-in for the library.

What the stand-in does was copied from version 5.
"""

from __future__ import annotations

import io
import sys
import types
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
        features = {name: self.features[name] for name in names}
        columns = {name: self.columns[name] for name in names}
        return Table(features, columns)

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
        for feature in self.features.values():
            assert not (isinstance(feature, Image) and feature.decode)
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
    module.Image = Image
    module.ClassLabel = ClassLabel
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

    module.load_dataset = load_dataset
    module.load_from_disk = load_from_disk
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
    dataset = open_dataset("hf:owner/pets")
    assert reds(dataset.train) == [1, 2, 3]
    assert reds(dataset.val) == [4, 5]
    assert reds(dataset.test) == [6]
    assert dataset.train.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [1, 0, 1]
    assert dataset.train.name(2) == "train/2"
    assert dataset.val.name(0) == "val/0"
    assert dataset.test.name(0) == "test/0"
    assert dataset.train.encoded(1) == png(2)
    assert library.asked == [("owner/pets", None, None)]


def test_configuration_and_split(library):
    tables = {"train[:3]": table(*range(10)), "extra": table(1)}
    library.hub["owner/pets", "small"] = tables
    dataset = open_dataset("hf:owner/pets:small,split=train[:3]")
    assert dataset.held_out == (0.2, 0, "image")
    part = dataset.train.subset([5, 2])
    assert reds(part)[0] == dataset.train.image(5)[0, 0, 0]
    assert part.name(0) == dataset.train.name(5)
    assert sorted(reds(dataset.all())) == list(range(10))
    assert library.asked == [("owner/pets", "small", "train[:3]")]
    message = r"the splits train\[:3\], extra, and none is train: choose with ,split="
    with pytest.raises(UserError, match=message):
        open_dataset("hf:owner/pets:small")


@pytest.mark.parametrize("file", ["dataset_dict.json", "state.json"])
def test_what_save_to_disk_left(library, tmp_path, file):
    (tmp_path / file).write_text("{}")
    if file == "state.json":
        library.hub[str(tmp_path), None] = table(1, 2, 3, 4)
        assert reds(open_dataset(f"hf:{tmp_path}").all()) == [1, 2, 3, 4]
    else:
        tables = {"train": table(1, 2, 3), "test": table(4)}
        library.hub[str(tmp_path), None] = tables
        assert reds(open_dataset(f"hf:{tmp_path}").train) == [1, 2, 3]
        assert reds(open_dataset(f"hf:{tmp_path},split=test").train) == [4]
    assert set(library.asked) == {(str(tmp_path),)}


def test_a_folder_of_files_is_left_to_the_library(library, tmp_path):
    library.hub[str(tmp_path), None] = {"train": table(1, 2)}
    assert reds(open_dataset(f"hf:{tmp_path}").train) == [1, 2]


def test_secret_labels(library):
    library.hub["imagenet", None] = {
        "train": table(1, 2),
        "validation": table(3),
        "test": table(4, 5, secret=True),
    }
    dataset = open_dataset("hf:imagenet")
    assert reds(dataset.test) == [3]
    assert dataset.val is None
    library.hub["imagenet", None] = {"train": table(1, 2, secret=True)}
    message = "cannot use train of hf:imagenet: labels go from -1 to -1"
    with pytest.raises(UserError, match=message):
        open_dataset("hf:imagenet")


def test_the_usual_columns_and_chosen_ones(library):
    several = table(1, 2, image="img", label="fine_label")
    several.features["coarse_label"] = ClassLabel(["pet"])
    several.columns["coarse_label"] = [0, 0]
    library.hub["cifar100", None] = {"train": several}
    assert open_dataset("hf:cifar100").train.classes == ("cat", "dog")
    assert open_dataset("hf:cifar100,label=coarse_label").train.classes == ("pet",)
    for spec, message in (
        ("hf:cifar100,label=fine", "unknown ClassLabel column of .* 'fine'; known are"),
        ("hf:cifar100,image=id", "unknown Image column of .* 'id'; known are img"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(spec)


def test_columns_that_have_to_be_chosen(library):
    several = table(1, 2, image="photo", label="kind")
    several.features["other"] = ClassLabel(["a"])
    library.hub["x", None] = {"train": several}
    message = "has the ClassLabel columns kind, other: choose with ,label="
    with pytest.raises(UserError, match=message):
        open_dataset("hf:x")
    several.features["mask"] = Image()
    message = "has the Image columns photo, mask: choose with ,image="
    with pytest.raises(UserError, match=message):
        open_dataset("hf:x")


def test_no_images(library):
    texts = Table({"text": Value("string")}, {"text": ["a"]})
    library.hub["glue", None] = {"train": texts}
    message = r"hf:glue has the Image columns \(none\): it is not for image classif"
    with pytest.raises(UserError, match=message):
        open_dataset("hf:glue")


def test_images_in_files(library, tmp_path):
    (tmp_path / "1.png").write_bytes(png(7))
    there = table(1, 2)
    paths = [str(tmp_path / name) for name in ("1.png", "2.png")]
    there.columns["image"] = [{"bytes": None, "path": path} for path in paths]
    library.hub["x", None] = {"train": there, "test": there}
    images = open_dataset("hf:x").train
    assert images.image(0)[0, 0, 0] == 7
    message = "cannot read the image 'train/1': FileNotFoundError, .*2.png"
    with pytest.raises(UserError, match=message):
        images.image(1)
    there.columns["image"] = [{"bytes": b"none", "path": None}, None]
    images = open_dataset("hf:x").train
    message = "'train/0': the image is not an image in a known format"
    with pytest.raises(UserError, match=message):
        images.image(0)
    with pytest.raises(UserError, match="cannot read the image 'train/1': TypeError"):
        images.image(1)


def test_two_names_for_one_split(library):
    library.hub["x", None] = {
        "train": table(1),
        "valid": table(2),
        "validation": table(3),
    }
    message = "hf:x has two splits for val: choose with ,split="
    with pytest.raises(UserError, match=message):
        open_dataset("hf:x")


def test_the_library_refuses(library):
    for spec, message in (
        ("hf:nowhere", "cannot open hf:nowhere: FileNotFoundError, Couldn't find any"),
        ("hf:x,spilt=train", "unknown option of hf 'spilt'; did you mean 'split'"),
        ("hf:", "no path after the colon of 'hf:': expected hf:PATH"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(spec)


def test_a_table_that_cannot_be_read(library):
    broken = table(1, 2)
    broken.select_columns = None  # type: ignore[assignment]
    library.hub["x", None] = {"train": broken}
    with pytest.raises(UserError, match="cannot read train of hf:x: TypeError"):
        open_dataset("hf:x")


def test_offline(library, monkeypatch, tmp_path):
    """The library reads its own switch when it is imported; ours must count too."""
    library.hub["x", None] = {"train": table(1, 2)}
    library.hub[str(tmp_path), None] = {"train": table(1, 2)}
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    open_dataset(f"hf:{tmp_path}")
    message = "cannot open hf:x: the network is switched off; set HF_HUB_OFFLINE=1, too"
    with pytest.raises(UserError, match=message):
        open_dataset("hf:x")
    monkeypatch.setattr(sys.modules["datasets"].config, "HF_HUB_OFFLINE", True)
    open_dataset("hf:x")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = r"hf: needs the library datasets .*: pip install datasets"
    with pytest.raises(UserError, match=message):
        open_dataset("hf:owner/pets")


def test_workers(library):
    library.hub["x", None] = {"train": table(*range(6)), "test": table(1)}
    images = open_dataset("hf:x").train
    batches = EvalBatches(images, Preprocess((2, 3), crop_pct=1.0), 2)
    found: list[int] = []
    for batch in stream(batches, range(3), workers=1):
        found += batch.images[:, 0, 0, 0].tolist()
    assert found == list(range(6))


def test_a_test_set_alone_can_be_evaluated_on(library):
    library.hub["owner/pets", None] = {"validation": table(4), "test": table(1, 2, 3)}
    dataset = open_dataset("hf:owner/pets", to_learn=False)
    assert reds(dataset.test) == [1, 2, 3]
    assert (len(dataset.train), reds(dataset.val)) == (0, [4])
    message = "owner/pets' has test and val but no train: expected a split of that name"
    with pytest.raises(UserError, match=message):
        open_dataset("hf:owner/pets")
