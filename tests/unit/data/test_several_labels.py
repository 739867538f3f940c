"""Several labels per image: lists, tables, splits, and what refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import ArraySet, Dataset, Preprocess, UserError
from mlp_mixer.data import open_dataset
from mlp_mixer.data.loader import EvalBatches, TrainBatches
from mlp_mixer.data.targets import rarest_labels
from mlp_mixer.images.settings import Augment

NAMES = "abcdefgh"
LABELS: list[list[str]] = [
    ["cat", "pet"],
    ["dog", "pet"],
    ["cat"],
    [],
    ["dog", "pet"],
    ["cat", "pet"],
    ["dog"],
    [],
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (9 * number, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def csv_list(folder: Path, heading: str, *rows: str) -> str:
    path = folder / "list.csv"
    path.write_text("\n".join([heading, *rows]) + "\n")
    return f"list:{path}"


def json_list(folder: Path, *records: dict[str, Any]) -> str:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"list:{path}"


def table() -> np.ndarray:
    return np.array([[name in own for name in ("cat", "dog", "pet")] for own in LABELS])


def test_csv_and_json_lines_say_the_same(photos: Path) -> None:
    rows = []
    records = []
    for name, own in zip(NAMES, LABELS, strict=True):
        rows.append(f"{name}.png, {'; '.join(own)}")
        records.append({"path": f"{name}.png", "labels": own})
    lists = [
        csv_list(photos, "path,labels", *rows),
        json_list(photos, *records),
    ]
    opened = [open_dataset(spec) for spec in lists]
    # Also under the name that lists of single labels have.
    renamed = [{"path": one["path"], "label": one["labels"]} for one in records]
    opened.append(open_dataset(json_list(photos, *renamed)))
    for dataset in opened:
        images = dataset.all()
        assert images.classes == ("cat", "dog", "pet")
        assert images.targets is not None
        assert (images.targets == table()).all()
        assert [images.label_text(row) for row in (0, 3)] == ["cat;pet", ""]
    assert len({dataset.fingerprint() for dataset in opened}) == 1


def test_one_list_among_single_labels_makes_all_of_them_lists(photos: Path) -> None:
    records = [
        {"path": "a.png", "label": "cat"},
        {"path": "b.png", "label": [7, "cat", "cat"]},
        {"path": "c.png", "label": 7},
    ]
    images = open_dataset(json_list(photos, *records)).train
    assert images.classes == ("7", "cat")
    assert images.targets is not None


@pytest.mark.parametrize(
    ("heading", "row", "message"),
    [
        (
            "path,label",
            "a.png,\"['cat', 'pet']\"",
            r"looks like a list: several labels",
        ),
        ("path,label", 'a.png,"[1, 0]"', r"line 2: the label '\[1, 0\]' looks like"),
        ("path,label,labels", "a.png,cat,cat;pet", "both a label and labels"),
        ("path,labels", "a.png,cat,pet", "line 2: there are more fields than"),
        ("path,labels", "a.png", "line 2: the labels are null: expected a list"),
        ("path,labels", "a.png,", "no training image with a label"),
    ],
)
def test_broken_csv(photos: Path, heading: str, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(csv_list(photos, heading, row))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": {"name": "cat"}}, "expected a text or a whole number"),
        ({"label": True}, "the label is true: expected"),
        ({"label": 0.5}, "the label is 0.5: expected"),
        ({"labels": ["cat", None]}, "line 1: there is no label"),
        ({"labels": [["cat"]]}, r"the label is \[\"cat\"\]: expected"),
        ({"labels": 3}, "the labels are 3: expected a list"),
        ({"labels": ["cat;pet"]}, "has a ';', which separates labels: rename it"),
    ],
)
def test_broken_json_lines(photos: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(json_list(photos, {"path": "a.png", **fields}))


def test_a_name_in_brackets_is_no_list(photos: Path) -> None:
    spec = csv_list(photos, "path,label", "a.png,[unknown]", "b.png,cat")
    assert open_dataset(spec).train.classes == ("[unknown]", "cat")


def test_a_class_that_train_lacks_is_named(photos: Path) -> None:
    rows = ("a.png,cat,train", "b.png,cat;dog,test")
    with pytest.raises(UserError, match="test of .* has the class 'dog', which train"):
        open_dataset(csv_list(photos, "path,labels,split", *rows))


# Tables


def test_the_rarest_label_of_an_image_splits_it() -> None:
    assert rarest_labels(table()).tolist() == [0, 1, 0, 0, 1, 0, 1, 0]


def arrays(count: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
    targets = rng.random((count, 3)) < (0.5, 0.3, 0.1)
    return Dataset.from_arrays(images, targets=targets, classes=["a", "b", "c"])


def test_splits_and_batches_carry_the_table() -> None:
    dataset = arrays()
    flat = dataset.all()
    assert flat.targets is not None
    assert dataset.test is not None
    for part in (dataset.train, dataset.test):
        rows = [int(part.name(row).split("/")[1]) for row in range(len(part))]
        assert part.targets is not None
        assert (part.targets == flat.targets[rows]).all()
        # Every class is on both sides.
        assert part.targets.any(axis=0).all()
    plain = Preprocess((4, 4), channels=1)
    batches = TrainBatches(dataset.train, plain, Augment(), 8, seed=0)
    for batch in (batches[2], EvalBatches(dataset.train, plain, 8)[1]):
        assert batch.labels.shape == (8, 3)
        expected = dataset.train.targets[batch.indices]  # type: ignore[index]
        assert (batch.labels.numpy() == expected).all()


def test_another_label_is_another_dataset() -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    targets = np.eye(3, dtype=int)
    before = Dataset.from_arrays(images, targets=targets).fingerprint()
    # The rarest label of each image stays.
    targets[0, 1] = 1
    assert Dataset.from_arrays(images, targets=targets).fingerprint() != before


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            np.zeros((3, 2, 1)),
            r"the targets are \(3, 2, 1\) for 3 images and 2 classes",
        ),
        (np.full((3, 2), 0.5), "other values than 0 and 1"),
        (np.zeros((2, 2)), "3 images but 2 labels"),
        (np.zeros(3), r"the targets are \(3,\)"),
    ],
)
def test_tables_that_do_not_fit(targets: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ArraySet(np.zeros((3, 4, 4), np.uint8), None, ["a", "b"], targets=targets)


def test_who_needs_one_label_says_so() -> None:
    with pytest.raises(UserError, match="a confusion needs one label per image"):
        arrays().train.need_one_label("a confusion")
