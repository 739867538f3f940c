import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import ArraySet, FileSet
from mlp_mixer.errors import UserError
from mlp_mixer.images.decode import Part


def test_array_set_in_all_layouts():
    gray = ArraySet(np.zeros((3, 4, 5), np.uint8), [0, 1, 0])
    assert (len(gray), gray.size, gray.channels) == (3, (4, 5), 1)
    assert gray.classes == ("0", "1")
    assert gray.image(0).shape == (4, 5, 1)
    assert gray.labels.dtype == np.int64
    pixels = np.zeros((3, 4, 5, 7), np.uint8)
    labels = np.array([2, 1, 0], np.uint8)
    many = ArraySet(pixels, labels, "abc", origin="test")
    assert many.channels == 7
    assert many.classes == ("a", "b", "c")
    assert many.name(2) == "test/2"


def test_arrays_are_not_copied():
    images = np.zeros((3, 4, 5, 3), np.uint8)
    assert np.shares_memory(ArraySet(images, [0, 1, 0]).images, images)


def test_subset_keeps_order_names_and_classes():
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1)
    whole = ArraySet(pixels, [0, 1, 2, 0, 1], origin="digits")
    part = whole.subset([4, 1, 0]).subset(np.array([1, 2]))
    assert [part.name(i) for i in range(2)] == ["digits/1", "digits/0"]
    assert part.images.ravel().tolist() == [1, 0]
    assert part.labels.tolist() == [1, 0]
    assert part.classes == whole.classes
    assert len(whole.subset([])) == 0


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3)), [0, 1], "images are float64"),
        (np.zeros((2, 3), np.uint8), [0, 1], r"expected uint8 \(N, H, W, C\)"),
        (np.zeros((2, 3, 3), np.uint8), [0], "2 images but 1 labels"),
        (np.zeros((2, 3, 3), np.uint8), [0.0, 1.0], "labels are float64"),
        (np.zeros((2, 3, 3), np.uint8), [[0], [1]], r"expected integers \(N,\)"),
        (np.zeros((2, 3, 3), np.uint8), [0, -1], "labels go from -1 to 0"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, message):
    with pytest.raises(UserError, match=message):
        ArraySet(images, labels)


def test_labels_beyond_the_classes():
    message = "labels go from 0 to 2 but there are 2 classes"
    with pytest.raises(UserError, match=message):
        ArraySet(np.zeros((2, 3, 3), np.uint8), [0, 2], ["a", "b"])


def test_file_set_decodes_on_access(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a/1.png")
    names = ["a/1.png", str(tmp_path / "a/2.png")]
    files = FileSet(tmp_path, names, [0, 1], ["x", "y"])
    assert files.image(0).tolist() == [[[255, 0, 0]] * 3] * 2
    assert (files.name(0), files.size, files.channels) == ("a/1.png", None, 3)
    with pytest.raises(UserError, match=r"a/2\.png"):
        files.image(1)
    gray = FileSet(tmp_path, ["a/1.png"], [0], ["x"], channels=1).subset([0])
    assert gray.image(0).shape == (2, 3, 1)


def test_parts_are_those_of_the_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), np.uint8)
    for name, image in zip(["a.png", "b.jpg"], pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    files = FileSet(tmp_path, ["a.png", str(tmp_path / "b.jpg")], [0, 1], ["x", "y"])
    gray = FileSet(tmp_path, ["a.png", "b.jpg"], [0, 1], ["x", "y"], channels=1)
    part = Part(lambda height, width: (height // 3, width // 4, 5, 6), (5, 6))
    for images in (ArraySet(pixels, [0, 1]), files, gray):
        for index in (0, 1):
            expected = images.image(index)[3:8, 3:9]
            np.testing.assert_array_equal(images.part(index, part), expected)


def test_a_broken_file_has_its_name_for_a_part_too(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for name in ("a.jpg", "b.jpg"):
        files = FileSet(tmp_path, [name], [0], ["x"])
        with pytest.raises(UserError) as whole:
            files.image(0)
        with pytest.raises(UserError) as part:
            files.part(0, Part(lambda height, width: (0, 0, 1, 1)))
        assert str(part.value) == str(whole.value)
        assert name in str(part.value)
