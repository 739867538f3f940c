from pathlib import Path

import pytest
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.data.names import is_image_name
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
    dataset = open_dataset(f"folder:{tmp_path}", split_seed=4, test_fraction=0.4)
    assert dataset.train.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.test)) == (6, 4)
    assert dataset.held_out == (0.4, 4, "image")
    cats = [f"cat/{i}.png" for i in range(5)]
    dogs = [f"dog/{i}.png" for i in range(5)]
    assert names(dataset.all()) == cats + dogs
    assert dataset.all().image(0)[0, 0].tolist() == [5, 0, 0]


def test_test_beside_val(tmp_path):
    train = ["train/a/1.png", "train/b/1.png"]
    plant(tmp_path, *train, "validation/b/2.png", "test/a/3.png", "README.txt")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert names(dataset.train) == train
    assert names(dataset.val) == ["validation/b/2.png"]
    assert dataset.val.labels.tolist() == [1]
    assert names(dataset.test) == ["test/a/3.png"]
    assert dataset.held_out is None


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_lone_val_is_the_test(tmp_path, val):
    plant(tmp_path, "Train/a/1.png", "Train/b/1.png", f"{val}/b/2.png")
    dataset = open_dataset(f"imagenet:{tmp_path}")
    assert names(dataset.test) == [f"{val}/b/2.png"]
    assert (dataset.val, dataset.held_out) == (None, None)


def test_lone_train_is_split(tmp_path):
    plant(tmp_path, *(f"train/{kind}/{i}.png" for kind in "ab" for i in range(4)))
    assert len(open_dataset(f"folder:{tmp_path}").test) == 2


def test_hidden_and_other_files_are_passed_over(tmp_path):
    plant(tmp_path, "a/1.PNG", "a/.2.png", "b/1.JpEg", ".git/x.png", "__MACOSX/a/1.png")
    (tmp_path / "a/Thumbs.db").touch()
    (tmp_path / "notes.txt").touch()
    train = open_dataset(f"folder:{tmp_path}").train
    assert sorted(names(train)) == ["a/1.PNG", "b/1.JpEg"]


def test_links_are_followed(tmp_path):
    plant(tmp_path / "store", "x/1.png", "y/1.png")
    (tmp_path / "set/b").mkdir(parents=True)
    (tmp_path / "set/a").symlink_to(tmp_path / "store/x")
    (tmp_path / "set/b/1.png").symlink_to(tmp_path / "store/y/1.png")
    dataset = open_dataset(f"folder:{tmp_path / 'set'}")
    assert names(dataset.train) == ["a/1.png", "b/1.png"]
    assert dataset.train.image(1)[0, 0].tolist() == [1, 0, 0]


def test_links_to_themselves_are_no_folders(tmp_path):
    plant(tmp_path, *(f"{label}/{i}.png" for label in "ab" for i in range(5)))
    for place in (tmp_path, tmp_path / "a"):
        (place / "loop").symlink_to("loop")
    assert open_dataset(f"folder:{tmp_path}").train.classes == ("a", "b")


def test_numbers_sort_by_value(tmp_path):
    plant(tmp_path, *(f"{kind}/1.png" for kind in ("10", "9", "1", "extra")))
    assert open_dataset(f"folder:{tmp_path}").train.classes == ("1", "9", "10", "extra")


def test_fingerprint_does_not_depend_on_the_place(tmp_path):
    prints = set()
    for seed, place in enumerate(("here", "there/deep")):
        plant(tmp_path / place, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
        moved = open_dataset(f"folder:{tmp_path / place}", split_seed=seed)
        prints.add(moved.fingerprint())
    assert len(prints) == 1


TRAIN = ["train/a/1.png", "train/b/1.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "there are no images in"),
        (["a/1.png", "b/"], r"the class '.*b' has no images \(.*\.jpeg"),
        (["a/1.png"], r"has 1 class of training images: expected at least two"),
        (
            ["a/1.png", "b/1.png", "c.png"],
            "/c.png' lies outside of any class: put it into the f",
        ),
        ([*TRAIN, "train/c.png"], "train/c.png' lies outside of any class"),
        (["a/1.png", "b/2020/1.png"], "b/2020' is a folder in the class 'b': move"),
        (
            [*TRAIN, "test/c/1.png"],
            "test of .* has the class 'c', which train does not",
        ),
        (["test/a/1.png", "val/b/1.png"], "has test and val but no train"),
        ([*TRAIN, "val/a/1.png", "valid/a/1.png"], "two folders for the split 'val'"),
    ],
)
def test_folders_that_are_no_dataset(tmp_path, files, message):
    for name in files:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            plant(tmp_path, name)
    with pytest.raises(UserError, match=message):
        open_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["a.png", "b/c.JPEG", "d.e.webp", "f.TIF"])
def test_names_of_images(name):
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["png", "a.txt", "a.png.txt", "", ".png", "a.png/b"])
def test_other_names(name):
    assert not is_image_name(name)


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder '.*absent'"):
        open_dataset(f"folder:{tmp_path / 'absent'}")
