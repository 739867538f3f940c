import json
import os
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


@pytest.mark.parametrize("digits", [999, 4300, 4301, 20000])
def test_a_label_of_thousands_of_digits_is_a_name(photos, digits):
    """Python refuses to make a number of more than 4,300 digits."""
    long = "7" * digits
    rows = [
        f'"p q/{name}.png",{label}'
        for name, label in zip("abcd", [long, 9] * 2, strict=True)
    ]
    assert set(open_dataset(write_csv(photos, "path,label", *rows)).train.classes) == {
        "9",
        long,
    }


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
        (["path,label"], "has no images"),
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
        (
            ["path,label,split", "p q/a.png,x,test"],
            "has test but no train: expected rows",
        ),
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
        ("", "has no images"),
    ],
)
def test_broken_json_lines(photos, text, message):
    (photos / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(f"list:{photos / 'list.jsonl'}")


def test_lists_that_cannot_be_read(photos):
    (photos / "list.csv").write_bytes(b"\xff\xfepath\x00\xd8")
    with pytest.raises(UserError, match="cannot read the list .*is damaged at byte"):
        open_dataset(f"list:{photos / 'list.csv'}")
    with pytest.raises(UserError, match=r"ends in \.csv or \.jsonl"):
        open_dataset(f"list:{photos / 'list.txt'}")
    with pytest.raises(UserError, match=r"cannot read the list .*No such file"):
        open_dataset(f"list:{photos / 'absent.csv'}")


def labelled(photos, *labels: str) -> list[str]:
    return [
        f'"p q/{name}.png",{label}'
        for name, label in zip("abcdef", labels, strict=False)
    ]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("./p q/a.png,y,train", "line 4: .* is called 'y', and by line 2 'x'"),
        ("p q/../p q/a.png,x,test", "line 4: .* is in test, and by line 2 in train"),
        ("link.png,x,val", "line 4: 'link.png' is in val, and by line 2 in train"),
        ("hard.png,y,train", "line 4: 'hard.png' is called 'y'"),
    ],
)
def test_one_file_twice_is_refused(photos, second, message):
    (photos / "link.png").symlink_to(photos / "p q/a.png")
    (photos / "hard.png").hardlink_to(photos / "p q/a.png")
    lines = ["path,label,split", "p q/a.png,x,train", "p q/b.png,y,train", second]
    with pytest.raises(UserError, match=message):
        open_dataset(write_csv(photos, *lines))


def test_a_line_twice_is_an_image_twice(photos):
    rows = labelled(photos, "x", "y", "x", "y")
    assert len(open_dataset(write_csv(photos, "path,label", *rows, rows[0])).all()) == 5


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_as_spreadsheets_save_them(photos, delimiter, encoding, end):
    rows = [["path", "label"], ["p q/a.png", "käse"], ["p q/b.png", "brot"]]
    text = end.join(delimiter.join(row) for row in rows)
    (photos / "list.csv").write_bytes(text.encode(encoding))
    dataset = open_dataset(f"list:{photos / 'list.csv'}")
    assert dataset.train.classes == ("brot", "käse")
    assert dataset.train.name(0) == "p q/a.png"


def test_names_may_hold_ends_of_lines(photos):
    names = ["new\nline.png", "sep\u2028x.png", "nel\x85.png", " space .png"]
    for name in names:
        (photos / name).write_bytes((photos / "p q/a.png").read_bytes())
    quoted = [f'"{name}",{k % 2}' for k, name in enumerate(names)]
    dataset = open_dataset(write_csv(photos, "path,label", *quoted))
    assert {dataset.all().name(k) for k in range(4)} == set(names)
    records = [{"path": n, "label": k % 2} for k, n in enumerate(names)]
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (photos / "l.jsonl").write_text(text, encoding="utf-8")
    dataset = open_dataset(f"list:{photos / 'l.jsonl'}")
    assert {dataset.all().name(k) for k in range(4)} == set(names)


def test_measurements_are_no_classes(photos):
    rows = labelled(photos, *(f"{k}.5" for k in range(6)))
    with pytest.raises(UserError, match=r"measurements such as 0\.5, nearly each"):
        open_dataset(write_csv(photos, "path,label", *rows))
    rows = labelled(photos, "1.5", "2.0", "1.5", "2.0", "1.5", "2.0")
    versions = open_dataset(write_csv(photos, "path,label", *rows))
    assert versions.train.classes == ("1.5", "2.0")


def test_a_list_that_is_not_utf8_says_so(photos):
    (photos / "list.csv").write_bytes(b"path,label\nd\xe9j\xe0.png,x\n")
    with pytest.raises(UserError, match="line 2: there is no file .* save it as UTF-8"):
        open_dataset(f"list:{photos / 'list.csv'}")
    (photos / "list.csv").write_bytes(b"path,label\np q/a.png,\xe9\np q/b.png,x\n")
    with pytest.raises(UserError, match="has a name that is not UTF-8"):
        open_dataset(f"list:{photos / 'list.csv'}")


@pytest.mark.parametrize("path", ['"a\\u0000b"', '"' + "x" * 5000 + '"', '"\\ud800"'])
def test_paths_that_no_file_can_have(photos, path):
    (photos / "list.jsonl").write_text(f'{{"path": {path}, "label": 1}}')
    with pytest.raises(UserError, match="line 1: there is no file"):
        open_dataset(f"list:{photos / 'list.jsonl'}")


@pytest.mark.parametrize("path", ["3", "[1]", "{}", "true"])
def test_paths_are_texts(photos, path):
    (photos / "list.jsonl").write_text(f'{{"path": {path}, "label": 1}}')
    with pytest.raises(UserError, match="line 1: the path is .*expected a text"):
        open_dataset(f"list:{photos / 'list.jsonl'}")


def test_accents_in_two_spellings_are_one_label(photos):
    rows = labelled(photos, "caf\u00e9", "cafe\u0301", "x", "x")
    dataset = open_dataset(write_csv(photos, "path,label", *rows))
    assert dataset.all().classes == ("caf\u00e9", "x")


def test_the_split_of_a_run_is_a_list(photos, tmp_path_factory):
    """Its paths are relative to the images, and its classes may begin with a space."""
    run = tmp_path_factory.mktemp("run")
    odd = os.fsdecode(b"\xff.png")
    for label in (" a", "b"):
        for name in ("1.png", odd):
            path = photos / "set" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (len(label), len(name), 0)).save(path, "PNG")
    settings = {"config": {"data": {"source": f"folder:{photos / 'set'}"}}}
    (run / "config.json").write_text(json.dumps(settings))
    lines = ["path,label,split"]
    for label in (" a", "b"):
        lines += [f"{label}/1.png,{label},train", f"{label}/{odd},{label},test"]
    text = "\n".join(lines)
    (run / "split.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    dataset = open_dataset(f"list:{run / 'split.csv'}")
    assert dataset.train.classes == (" a", "b")
    assert dataset.test.name(0) == f" a/{odd}"
    assert dataset.test.image(0).shape == (2, 2, 3)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", [" a.png", "  .png", " b c.png", "d .png"])
def test_a_name_may_begin_with_a_space(photos, delimiter, name):
    """csv.writer and pandas put no quotes around it."""
    (photos / name).write_bytes((photos / "p q/a.png").read_bytes())
    rows = [["path", "label"], [name, "x"], ["p q/b.png", "y"]]
    dataset = open_dataset(write_csv(photos, *map(delimiter.join, rows)))
    assert dataset.all().name(0) == name


@pytest.mark.parametrize(
    "lines",
    [
        ["path,label", '"p q/a.png", "cat, big"', "p q/b.png, dog"],
        ["path, label", 'p q/a.png, "cat, big"', "p q/b.png,dog"],
        ["label, path", '"cat, big", p q/a.png', "dog, p q/b.png"],
        ["path,label", ' "p q/a.png","cat, big"', "p q/b.png,dog"],
    ],
)
def test_spaces_for_the_eye_are_no_part_of_a_field(photos, lines):
    dataset = open_dataset(write_csv(photos, *lines))
    assert dataset.all().name(0) == "p q/a.png"
    assert dataset.all().classes == ("cat, big", "dog")


@pytest.mark.parametrize(
    "config",
    [
        '{"config": {"data": {"source": "folder:~nobody-of-this-name/x"}}}',
        '{"config": {"data": {"source": "folder:%s"}}}' % ("y" * 5000),
        '{"config": {"data": {"source": "a\\u0000b"}}}',
        '{"config": {"data": {"source": 3}}}',
        '{"config": {"data": []}}',
        "[" * 5000,
        "\ud800",
        "",
    ],
)
def test_the_config_beside_the_split_of_a_run_may_be_a_strangers(photos, config):
    """Then the images are looked for beside the list, as of any other."""
    text = config.encode("utf-8", "surrogatepass")
    (photos / "config.json").write_bytes(text)
    rows = labelled(photos, "x", "y", "x", "y")
    (photos / "split.csv").write_text("\n".join(["path,label", *rows]))
    assert len(open_dataset(f"list:{photos / 'split.csv'}").all()) == 4
    (photos / "split.csv").write_text("path,label,split\nabsent.png,x,train")
    with pytest.raises(UserError, match="line 2: there is no file"):
        open_dataset(f"list:{photos / 'split.csv'}")
