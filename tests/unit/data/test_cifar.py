import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import open_dataset
from mlp_mixer.data.cifar import CIFAR10, CIFAR100
from mlp_mixer.errors import UserError

SHARED = (
    Path(os.environ.get("MLP_MIXER_SHARED", Path(__file__).parents[4] / "shared"))
    / "data/cifar10"
)
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 10, 32, 32, 3), dtype=np.uint8)


LABELS = np.arange(10)[::-1]


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_binary(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(BATCHES, images, strict=True):
        records = np.concatenate(
            [LABELS[:, None].astype(np.uint8), planes(part)], axis=1
        )
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_python(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(BATCHES, images, strict=True):
        batch = {
            b"data": np.ascontiguousarray(planes(part)),
            b"labels": LABELS.tolist(),
            b"batch_label": b"x",
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("write", [write_binary, write_python])
@pytest.mark.parametrize("nested", [True, False])
def test_official_layouts(tmp_path, images, write, nested):
    write(
        tmp_path / CIFAR10.subfolders[write is write_python] if nested else tmp_path,
        images,
    )
    source = open_dataset(f"cifar10:{tmp_path}")
    np.testing.assert_array_equal(
        source.train.images, images[:5].reshape(50, 32, 32, 3)
    )
    np.testing.assert_array_equal(source.test.images, images[5])
    np.testing.assert_array_equal(source.test.labels, LABELS)
    assert source.train.classes[3] == "cat"


def test_cifar100_takes_the_fine_labels(tmp_path, images):
    binary = tmp_path / "bin"
    python = tmp_path / "py"
    binary.mkdir()
    python.mkdir()
    for name, part in (("train", images[0]), ("test", images[1])):
        coarse = np.full((10, 1), 7, np.uint8)
        fine = (LABELS[:, None] + 90).astype(np.uint8)
        (binary / f"{name}.bin").write_bytes(
            np.concatenate([coarse, fine, planes(part)], axis=1).tobytes()
        )
        batch = {
            b"data": planes(part),
            b"fine_labels": fine.ravel().tolist(),
            b"coarse_labels": [7] * 10,
        }
        (python / name).write_bytes(pickle.dumps(batch))
    one, other = (open_dataset(f"cifar100:{folder}") for folder in (binary, python))
    assert (
        one.train.labels.tolist()
        == other.train.labels.tolist()
        == (LABELS + 90).tolist()
    )
    assert one.fingerprint() == other.fingerprint()
    np.testing.assert_array_equal(one.test.images, other.test.images)


def test_class_names_are_the_official_ones():
    assert len(CIFAR100.classes) == len(set(CIFAR100.classes)) == 100
    assert CIFAR100.classes == tuple(sorted(CIFAR100.classes))
    assert (CIFAR100.classes[0], CIFAR100.classes[51], CIFAR100.classes[99]) == (
        "apple",
        "mushroom",
        "worm",
    )
    assert CIFAR10.classes == tuple(sorted(CIFAR10.classes))


class Attack:
    def __reduce__(self):
        return (exec, ("import sys; sys.attacked = True",))


def test_a_pickle_that_runs_a_program_is_refused_without_running(tmp_path, images):
    write_python(tmp_path, images)
    (tmp_path / "data_batch_2").write_bytes(
        pickle.dumps({b"data": Attack(), b"labels": []})
    )
    with pytest.raises(
        UserError,
        match=r"data_batch_2': it asks for builtins\.exec, which is not allowed",
    ):
        open_dataset(f"cifar10:{tmp_path}")
    assert not hasattr(sys, "attacked")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "not a batch of cifar10"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "not a batch of cifar10"),
        ({b"data": "text", b"labels": [0]}, "not a batch of cifar10"),
        (
            {b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]},
            "other than 3072 uint8 values",
        ),
        (
            {b"data": np.zeros((1, 3072)), b"labels": [0]},
            "other than 3072 uint8 values",
        ),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "has the label 10"),
    ],
)
def test_pickles_that_hold_something_else(tmp_path, images, batch, message):
    write_python(tmp_path, images)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(UserError, match=message):
        open_dataset(f"cifar10:{tmp_path}")


def test_broken_and_missing_files(tmp_path, images):
    write_binary(tmp_path, images)
    path = tmp_path / "data_batch_4.bin"
    whole = path.read_bytes()
    for data, message in (
        (whole[:-1], "expected a multiple of 3073"),
        (b"\x0a" + whole[1:], "has the label 10"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"data_batch_4\.bin' .*{message}"):
            open_dataset(f"cifar10:{tmp_path}")
    path.unlink()
    with pytest.raises(UserError, match=r"data_batch_4\.bin': No such file"):
        open_dataset(f"cifar10:{tmp_path}")
    with pytest.raises(UserError, match="there is no cifar100 in"):
        open_dataset(f"cifar100:{tmp_path}")


def test_garbled_pickles(tmp_path, images):
    write_python(tmp_path, images)
    path = tmp_path / "data_batch_1"
    whole = path.read_bytes()
    for data in (b"", whole[:100], b"\x80\x02}", b"hello"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="data_batch_1"):
            open_dataset(f"cifar10:{tmp_path}")


def write_folders(root: Path, make) -> None:
    for split in ("train", "test"):
        for name in CIFAR10.classes:
            (root / split / name).mkdir(parents=True)
            make(root / split / name)


def test_a_folder_of_classes(tmp_path, images):
    write_folders(
        tmp_path, lambda folder: Image.fromarray(images[0, 0]).save(folder / "0000.png")
    )
    source = open_dataset(f"cifar10:{tmp_path}")
    assert source.train.classes == CIFAR10.classes
    np.testing.assert_array_equal(source.test.image(9), images[0, 0])
    assert source.test.labels[9] == 9
    (tmp_path / "train/cat").rename(tmp_path / "train/tiger")
    (tmp_path / "test/cat").rename(tmp_path / "test/tiger")
    with pytest.raises(
        UserError, match="classes of other names than cifar10: use folder:PATH"
    ):
        open_dataset(f"cifar10:{tmp_path}")


def write_sheet(folder: Path) -> None:
    """Tile k is filled with k + class * 100 // 10."""
    k = CIFAR10.classes.index(folder.name)
    tiles = (np.arange(100) + 10 * k).astype(np.uint8).reshape(10, 10)
    Image.fromarray(np.kron(tiles, np.ones((32, 32), np.uint8))).convert("RGB").save(
        folder / "sheet_00.webp", lossless=True
    )


def test_contact_sheets(tmp_path):
    write_folders(tmp_path, write_sheet)
    rng = np.random.default_rng(0)
    order = rng.permutation(np.repeat(np.arange(10), 100))
    (tmp_path / "test_labels.txt").write_text("\n".join(map(str, order)))
    source = open_dataset(f"cifar10:{tmp_path}")
    assert source.train.images[205].ravel().tolist() == [25] * 3072
    np.testing.assert_array_equal(source.test.labels, order)
    seventh = np.flatnonzero(order == 3)[7]
    assert source.test.image(seventh)[0, 0, 0] == 37

    (tmp_path / "test_labels.txt").write_text("0 1 2")
    with pytest.raises(UserError, match=r"test_labels\.txt' does not list every image"):
        open_dataset(f"cifar10:{tmp_path}")
    Image.new("RGB", (64, 320)).save(tmp_path / "train/dog/sheet_01.webp")
    with pytest.raises(
        UserError, match=r"sheet_01\.webp' is 64 x 320: expected a sheet of 320 x 320"
    ):
        open_dataset(f"cifar10:{tmp_path}")


@pytest.mark.skipif(
    not SHARED.is_dir(),
    reason=f"there is no CIFAR-10 in {SHARED} (set MLP_MIXER_SHARED)",
)
def test_the_real_sheets():
    source = open_dataset(f"cifar10:{SHARED}")
    assert (len(source.train), len(source.test)) == (50_000, 10_000)
    assert source.test.labels[:6].tolist() == [3, 8, 8, 0, 6, 6]  # the official order
    # Channel means that everybody normalizes CIFAR-10 with.
    np.testing.assert_allclose(
        source.train.images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4
    )
    sheet = np.asarray(Image.open(SHARED / "test/frog/sheet_03.webp").convert("RGB"))
    frogs = source.test.images[source.test.labels == 6]
    np.testing.assert_array_equal(frogs[345], sheet[4 * 32 : 5 * 32, 5 * 32 : 6 * 32])
