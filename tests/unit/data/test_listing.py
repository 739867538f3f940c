import json
from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.errors import UserError


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "p q").mkdir()
    for number, name in enumerate("abcdef"):
        colour = (number, 0, 0)
        Image.new("RGB", (2, 2), colour).save(tmp_path / f"p q/{name}.png")
    return tmp_path


def write_csv(folder: Path, *lines: str) -> str:
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"list:{folder / 'list.csv'}"


def test_csv_without_splits(photos):
    labels = [10, 9, 10, 9, 10, 9]
    rows = []
    for name, label in zip("abcdef", labels, strict=True):
        rows.append(f'"p q/{name}.png",{label}')
    dataset = open_dataset(write_csv(photos, "\ufeffpath,label", *rows))
    assert dataset.train.classes == ("9", "10")
    assert (len(dataset.train), len(dataset.test)) == (4, 2)
    assert dataset.held_out == (0.2, 0, "image")
    assert dataset.all().name(0) == "p q/a.png"
    assert dataset.all().labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert dataset.all().image(0).shape == (2, 2, 3)


def test_csv_with_splits_and_other_columns(photos):
    spec = write_csv(
        photos,
        "split, label, path, who",
        "train, cat, p q/a.png, me",
        "Train, dog, p q/b.png, me",
        "validation, dog, p q/c.png,",
        f"test, cat, {photos / 'p q/d.png'}, you",
    )
    dataset = open_dataset(spec)
    assert len(dataset.train) == 2
    assert len(dataset.val) == len(dataset.test) == 1
    assert dataset.test.image(0).shape == (2, 2, 3)


def test_json_lines(photos):
    records = []
    for k, name in enumerate("abcd"):
        path = f"p q/{name}.png"
        records.append({"path": path, "label": k % 2, "split": "train"})
    records.append({"path": "p q/e.png", "label": "1", "split": "test"})
    (photos / "list.jsonl").write_text("\n\n".join(map(json.dumps, records)))
    dataset = open_dataset(str(photos / "list.jsonl"))
    assert dataset.train.classes == ("0", "1")
    assert len(dataset.train) == 4
    assert dataset.test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["path,class", "p q/a.png,x"],
            "line 1: there is no column 'label', only path,",
        ),
        ([], "line 1: there is no column 'path', only none"),
        (["path,label"], "has no training images"),
        (["path,label", "p q/a.png,x", "p q/a.png"], "line 3: there is no label"),
        (["path,label", ",x"], "line 2: there is no path"),
        (
            ["path,label", "p q/a.png,x", "", "p q/z.png,y"],
            r"line 4: there is no file '.*z",
        ),
        (
            ["path,label,split", "p q/a.png,x,trian"],
            "line 2: unknown split 'trian'; did you",
        ),
        (["path,label,split", "p q/a.png,x,"], "line 2: unknown split ''"),
        (["path,label,split", "p q/a.png,x,test"], "has no training images"),
        (["path,label", "p q/a.png,x", "p q/b.png,x"], "1 class"),
    ],
)
def test_broken_csv(photos, lines, message):
    with pytest.raises(UserError, match=message):
        open_dataset(write_csv(photos, *lines))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "p q/a.png", "label": 1}\n{"path"', "line 2: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ("[1, 2]", "line 1: expected"),
        ('{"path": "p q/a.png"}', "line 1: there is no label"),
        ('{"path": "p q/a.png", "label": null}', "line 1: there is no label"),
        ("", "has no training images"),
    ],
)
def test_broken_json_lines(photos, text, message):
    (photos / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(f"list:{photos / 'list.jsonl'}")


def test_lists_that_cannot_be_read(photos):
    (photos / "list.csv").write_bytes(b"path,label\n\xff\xfe")
    with pytest.raises(UserError, match="cannot read the list"):
        open_dataset(f"list:{photos / 'list.csv'}")
    with pytest.raises(UserError, match=r"ends in \.csv or \.jsonl"):
        open_dataset(f"list:{photos / 'list.txt'}")
    with pytest.raises(UserError, match=r"cannot read the list .*No such file"):
        open_dataset(f"list:{photos / 'absent.csv'}")
