from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.errors import UserError


def plant(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(path, "PNG")


def names(part) -> list[str]:
    return [part.name(i) for i in range(len(part))]


def test_flat_folder_is_split(tmp_path):
    plant(tmp_path, *(f"{kind}/{i}.png" for kind in ("dog", "cat") for i in range(5)))
    source = open_dataset(f"folder:{tmp_path}", split_seed=4, test_fraction=0.4)
    assert source.train.classes == ("cat", "dog")
    assert (len(source.train), len(source.test), source.held_out) == (6, 4, (0.4, 4))
    assert names(source.all()) == [
        f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(5)
    ]
    assert source.all().image(0)[0, 0].tolist() == [5, 0, 0]


def test_test_beside_val(tmp_path):
    plant(
        tmp_path,
        "train/a/1.png",
        "train/b/1.png",
        "validation/b/2.png",
        "test/a/3.png",
        "README.txt",
    )
    source = open_dataset(f"folder:{tmp_path}")
    assert names(source.train) == ["train/a/1.png", "train/b/1.png"]
    assert (names(source.val), source.val.labels.tolist()) == (
        ["validation/b/2.png"],
        [1],
    )
    assert (names(source.test), source.held_out) == (["test/a/3.png"], None)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_lone_val_is_the_test(tmp_path, val):
    plant(tmp_path, "Train/a/1.png", "Train/b/1.png", f"{val}/b/2.png")
    source = open_dataset(f"imagenet:{tmp_path}")
    assert (source.val, names(source.test), source.held_out) == (
        None,
        [f"{val}/b/2.png"],
        None,
    )


def test_lone_train_is_split(tmp_path):
    plant(tmp_path, *(f"train/{kind}/{i}.png" for kind in "ab" for i in range(4)))
    assert len(open_dataset(f"folder:{tmp_path}").test) == 2


def test_hidden_and_other_files_are_passed_over(tmp_path):
    plant(tmp_path, "a/1.PNG", "a/.2.png", "b/1.JpEg", ".git/x.png", "__MACOSX/a/1.png")
    (tmp_path / "a/Thumbs.db").touch()
    (tmp_path / "notes.txt").touch()
    assert sorted(names(open_dataset(f"folder:{tmp_path}").train)) == [
        "a/1.PNG",
        "b/1.JpEg",
    ]


def test_links_are_followed(tmp_path):
    plant(tmp_path / "store", "x/1.png", "y/1.png")
    (tmp_path / "set/b").mkdir(parents=True)
    (tmp_path / "set/a").symlink_to(tmp_path / "store/x")
    (tmp_path / "set/b/1.png").symlink_to(tmp_path / "store/y/1.png")
    source = open_dataset(f"folder:{tmp_path / 'set'}")
    assert names(source.train) == ["a/1.png", "b/1.png"]
    assert source.train.image(1)[0, 0].tolist() == [1, 0, 0]


def test_links_to_themselves_are_no_folders(tmp_path):
    plant(tmp_path, *(f"{label}/{i}.png" for label in "ab" for i in range(5)))
    for place in (tmp_path, tmp_path / "a"):
        (place / "loop").symlink_to("loop")
    assert open_dataset(f"folder:{tmp_path}").train.classes == ("a", "b")


def test_numbers_sort_by_value(tmp_path):
    plant(tmp_path, *(f"{kind}/1.png" for kind in ("10", "9", "1", "extra")))
    assert open_dataset(f"folder:{tmp_path}").train.classes == ("1", "9", "10", "extra")


def test_fingerprint_does_not_depend_on_the_place(tmp_path):
    prints = []
    for place in ("here", "there/deep"):
        plant(tmp_path / place, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
        prints.append(
            open_dataset(
                f"folder:{tmp_path / place}", split_seed=len(prints)
            ).fingerprint()
        )
    assert prints[0] == prints[1]


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        ([], [], "there are no images in"),
        (["a/1.png"], ["b"], r"the class '.*b' has no images \(.*\.jpeg"),
        (
            ["a/1.png"],
            [],
            r"has 1 class\(es\) of training images: expected at least two",
        ),
        (
            ["a/1.png", "b/1.png", "bird.png"],
            [],
            "'bird.png' lies directly in .*: put it into the folder of its class",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "train/bird.png"],
            [],
            "'bird.png' lies directly in '.*train'",
        ),
        (["a/1.png", "b/2020/1.png"], [], "the class '.*b' has a sub folder '2020'"),
        (
            ["train/a/1.png", "train/b/1.png", "test/c/1.png"],
            [],
            "test of .* has the class 'c', which train does not",
        ),
        (["test/a/1.png", "val/b/1.png"], [], "has test and val but no train"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png"],
            [],
            "two folders for the split 'val'",
        ),
    ],
)
def test_folders_that_are_no_data_set(tmp_path, files, folders, message):
    plant(tmp_path, *files)
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=message):
        open_dataset(f"folder:{tmp_path}")


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder '.*absent'"):
        open_dataset(f"folder:{tmp_path / 'absent'}")
