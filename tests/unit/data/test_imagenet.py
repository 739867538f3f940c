"""ImageNet's test sets as people have them on disk, in miniature."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer.data import DATASETS, ImageSet, open_dataset
from mlp_mixer.data.imagenet import Benchmark, conditions
from mlp_mixer.errors import UserError
from mlp_mixer.recipes import digits
from mlp_mixer.training.run import prepare

WNIDS = ("n01440764", "n01443537", "n02510455")


def plant(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return root


def opened(spec: str) -> Benchmark:
    found = open_dataset(spec).test
    assert isinstance(found, Benchmark)
    return found


def names(images: ImageSet) -> list[str]:
    return [images.name(i) for i in range(len(images))]


def test_v2_is_numbered(tmp_path: Path) -> None:
    plant(tmp_path, "10/a.png", "2/b.jpeg", "2/a.png", "999/a.png")
    found = opened(f"imagenet_v2:{tmp_path}")
    assert found.classes == ("2", "10", "999")
    assert found.labels.tolist() == [1, 0, 0, 2]
    assert names(found) == ["10/a.png", "2/a.png", "2/b.jpeg", "999/a.png"]
    assert found.image(0).shape == (8, 8, 3)
    assert found.image(1)[0, 0, 0] == 2
    assert found.protocol.numbered
    assert not found.protocol.among
    assert found.label_sets is None


@pytest.mark.parametrize(
    ("name", "among"), [("a", True), ("r", True), ("sketch", False), ("c", False)]
)
def test_the_others_have_wordnet_ids(tmp_path: Path, name: str, among: bool) -> None:
    plant(tmp_path, *(f"{wnid}/{i}.png" for wnid in WNIDS for i in range(2)))
    (tmp_path / "README.txt").write_text("beside the classes")
    found = opened(f"imagenet_{name}:{tmp_path}")
    assert found.classes == WNIDS
    assert found.protocol.name == f"imagenet_{name}"
    assert found.protocol.among == among
    assert not found.protocol.numbered


def test_a_part_and_a_copy_keep_the_protocol(tmp_path: Path) -> None:
    plant(tmp_path, *(f"ILSVRC2012_val_0000000{i}.png" for i in (1, 2, 3)))
    (tmp_path / "real.json").write_text("[[5], [7, 2], [1]]")
    part = opened(f"imagenet_real:{tmp_path}").subset(np.array([2, 1]))
    # A worker process gets a copy.
    for one in (part, pickle.loads(pickle.dumps(part))):
        assert one.label_sets == ((1,), (7, 2))
        assert one.labels.tolist() == [1, 7]
        assert names(one) == [
            "ILSVRC2012_val_00000003.png",
            "ILSVRC2012_val_00000002.png",
        ]
        assert one.protocol.name == "imagenet_real"


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("v2", ("n01440764/a.png", "n01443537/a.png")),
        ("v2", ("1/a.png", "1000/a.png")),
        ("v2", ("1/a.png", "02/a.png")),
        ("a", ("1/a.png", "2/a.png")),
        ("sketch", ("n01440764/a.png", "cat/a.png")),
        (
            "r",
            ("train/n01440764/a.png", "train/n01443537/a.png", "val/n01440764/a.png"),
        ),
    ],
)
def test_other_folders_are_refused(
    tmp_path: Path, name: str, planted: tuple[str, ...]
) -> None:
    plant(tmp_path, *planted)
    with pytest.raises(UserError, match=rf"imagenet_{name} expects .*/\*"):
        open_dataset(f"imagenet_{name}:{tmp_path}")


@pytest.mark.parametrize("val_fraction", [0.1, 0])
@pytest.mark.parametrize("name", ["v2", "a", "r", "sketch", "c", "real"])
def test_no_run_trains_on_them(tmp_path: Path, name: str, val_fraction: float) -> None:
    for kind in ("0", "1") if name == "v2" else WNIDS:
        plant(tmp_path, *(f"{kind}/{i}.png" for i in range(9)))
    if name == "real":
        plant(tmp_path, "0/ILSVRC2012_val_00000001.png")
        (tmp_path / "real.json").write_text("[[5]]")
    config = digits()
    data = dataclasses.replace(
        config.data, source=f"imagenet_{name}:{tmp_path}", val_fraction=val_fraction
    )
    message = f"imagenet_{name} is a test set without images to learn from; imagenet:P"
    with pytest.raises(UserError, match=message):
        prepare(dataclasses.replace(config, data=data))


def test_every_use_for_training_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, *(f"{wnid}/a.png" for wnid in WNIDS))
    train = open_dataset(f"imagenet_a:{tmp_path}").train
    uses = (
        lambda: train.image(0),
        lambda: train.name(0),
        lambda: train.subset([0]),
        lambda: train.labels,
    )
    for use in uses:
        with pytest.raises(UserError, match="without images to learn from"):
            use()


def test_every_corruption_at_every_severity(tmp_path: Path) -> None:
    # As the archives unpack, and moved up.
    leaves = ["blur/defocus_blur/1", "blur/defocus_blur/5", "fog/3"]
    for leaf in leaves:
        plant(tmp_path, *(f"{leaf}/{wnid}/a.png" for wnid in WNIDS))
    (tmp_path / "notes").mkdir()
    (tmp_path / "fog" / "in a circle").symlink_to(tmp_path)
    found = conditions(f"imagenet_c:{tmp_path}")
    assert [spec.removeprefix(f"imagenet_c:{tmp_path}/") for spec in found] == leaves
    assert conditions(found[0]) == [found[0]]
    assert len(opened(found[0])) == 3
    message = "holds 3 conditions: open them one by one, as '.*blur/defocus_blur/1'"
    with pytest.raises(UserError, match=message):
        open_dataset(f"imagenet_c:{tmp_path}")
    fog = conditions(f"imagenet_c:{tmp_path / 'fog'}")
    assert fog[0] == f"imagenet_c:{tmp_path}/fog/3"


@pytest.mark.parametrize(
    "spec",
    [
        "imagenet_c",
        "imagenet_c:",
        "imagenet_c:/not/there",
        "digits",
        "imagenet_a:/some",
    ],
)
def test_other_specs_are_one_condition(spec: str) -> None:
    assert conditions(spec) == [spec]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("where", ["named", "inside", "beside"])
def test_real_goes_by_the_number_in_the_name(
    tmp_path: Path, flat: bool, where: str
) -> None:
    """Out of order over the folders, with an unlabelled image and one that is missing."""
    folders = ("", "", "", "") if flat else ("n3/", "n1/", "n2/", "n1/")
    stem = "ILSVRC2012_val_0000000"
    stems = ("1.JPEG", "2.JPEG", "3.JPEG", "5.png")
    files = [f"{own}{stem}{n}" for own, n in zip(folders, stems, strict=True)]
    val = plant(tmp_path / "a, b" / "val", *files, "other.png", "n4/other.png")
    (val / "n4" / "ILSVRC2012_val_00000003.xml").write_text("the box around the tench")
    places = {"named": tmp_path, "inside": val, "beside": val.parent}
    answers = places[where] / "real.json"
    answers.write_text(json.dumps([[3, 999], [], [7], [8], [0, 4]]))
    spec = f"imagenet_real:{val}"
    if where == "named":
        spec += f",{answers}"
    found = opened(spec)
    assert names(found) == [files[0], files[2], files[3]]
    assert found.label_sets == ((3, 999), (7,), (0, 4))
    assert [found.image(i)[0, 0, 0] for i in (0, 2)] == [0, 3]
    assert found.classes[999] == "999"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            None,
            "cannot read the labels of ReaL '.*real.json'.*write imagenet_real:VALFOLDER",
        ),
        ("[[1], ", "cannot read the labels of ReaL"),
        ("[" * 100_000, "cannot read the labels of ReaL"),
        ("\xff", "cannot read the labels of ReaL"),
        ('{"1": [2]}', "does not hold the labels of ReaL"),
        ("[[1], 2, [3]]", "does not hold the labels of ReaL"),
        ("[[1], [1000], [3]]", "does not hold the labels of ReaL"),
        ("[[1], [true], [3]]", "does not hold the labels of ReaL"),
        ("[[1], [-1], [3]]", "does not hold the labels of ReaL"),
        (
            "[[1], [2]]",
            "labels for 2 images, and none for 'ILSVRC2012_val_00000003.png'",
        ),
        (
            "[[1], [2], []]",
            "has no labelled images such as ILSVRC2012_val_00000002.JPEG",
        ),
    ],
)
def test_real_labels_that_are_none(
    tmp_path: Path, answers: str | None, message: str
) -> None:
    plant(
        tmp_path,
        "ILSVRC2012_val_00000003.png",
        "ILSVRC2012_val_3.png",
        "ILSVRC2012_val_00000003.txt.png",
    )
    if answers is not None:
        (tmp_path / "real.json").write_text(answers, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        open_dataset(f"imagenet_real:{tmp_path}")


def test_the_labels_of_real_and_of_the_competition(
    tmp_path: Path, shared: Path
) -> None:
    """46,837 of the 50,000 images have labels of ReaL.

    The competition's label is among them for 42,164 images, or 90.02 %.
    """
    meta = shared / "data" / "imagenet_meta"
    for number in range(1, 50_001):
        (tmp_path / f"ILSVRC2012_val_{number:08}.JPEG").touch()
    found = opened(f"imagenet_real:{tmp_path},{meta / 'real.json'}")
    original = (meta / "imagenet_val_labels.txt").read_text().split()
    numbers = [int(name[15:23]) - 1 for name in names(found)]
    assert found.label_sets is not None
    agreed = 0
    for number, answers in zip(numbers, found.label_sets, strict=True):
        agreed += int(original[number]) in answers
    assert (len(found), agreed) == (46_837, 42_164)
    assert max(map(len, found.label_sets)) == 9
    assert numbers == sorted(numbers)


def test_all_six_are_datasets() -> None:
    found = {name for name in DATASETS if name.startswith("imagenet_")}
    short = {name.removeprefix("imagenet_") for name in found}
    assert short == {"v2", "a", "r", "sketch", "c", "real"}
    message = "the dataset imagenet_a needs its folder, .*: write imagenet_a:PATH"
    with pytest.raises(UserError, match=message):
        open_dataset("imagenet_a")
