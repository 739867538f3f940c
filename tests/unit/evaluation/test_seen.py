"""No number is told of images that a checkpoint, or one before it, has learnt from.

The images are noise with random labels: whoever has not seen them is right by chance,
and whoever has seen them can be right about all.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mlp_mixer as mm
from mlp_mixer import UserError, api
from mlp_mixer.data.seen import SeenImages
from mlp_mixer.evaluation import eval_split, evaluate_fewshot
from mlp_mixer.report import build_report
from mlp_mixer.training.extras.linear_probe import fit_head

SETTINGS = {
    "model.name": "mixer_pico2",
    "model.image_size": 8,
    "train.device": "cpu",
    "train.batch_size": 16,
    "train.eval_every_epochs": 20,
    "optim.lr": 0.01,
    "data.val_fraction": 0.05,
    "augment.crop": "none",
}


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "noise"
    for number in range(120):
        noise(root / "ab"[number % 2] / f"{number:03d}.png", number)
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has learnt all of its training images by heart."""
    out = tmp_path_factory.mktemp("runs") / "noise"
    mm.train("digits", out, data=f"folder:{folder}", settings=SETTINGS, epochs=60)
    learnt = mm.evaluate(out, f"folder:{folder}", split="train")
    assert learnt.top1 > 0.9
    assert learnt.seen == learnt.n
    return out


def copy_of(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def check_at_chance(result: mm.Evaluation) -> None:
    """Half of n, within four deviations."""
    assert result.seen == 0
    assert abs(result.top1 - 0.5) < 4 * 0.5 / np.sqrt(result.n)


def test_the_same_folder(run: Path, folder: Path) -> None:
    result = mm.evaluate(run, f"folder:{folder}")
    check_at_chance(result)
    assert result.split == "test (20 % held out by seed 0)"
    whole = mm.evaluate(run, f"folder:{folder}", split="all")
    assert whole.seen == 120 - result.n
    assert f"{whole.seen} of which it has learnt from" in whole.split


def added(folder: Path) -> None:
    noise(folder / "a" / "zzz.png", 1000)
    noise(folder / "a" / "000_first.png", 1001)


def removed(folder: Path) -> None:
    for path in sorted(folder.rglob("*.png"))[::7]:
        path.unlink()


def renamed(folder: Path) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(path.with_name(f"IMG_{number * 37 % 120:04d}.png"))


def nested(folder: Path) -> None:
    """As train/<class> and test/<class>, where most of test was learnt from."""
    for label in "ab":
        paths = sorted((folder / label).glob("*.png"))
        for part, images in (("test", paths[:40]), ("train", paths[40:])):
            place = folder / part / label
            place.mkdir(parents=True)
            for path in images:
                path.rename(place / path.name)
        (folder / label).rmdir()


@pytest.mark.parametrize("change", [added, removed, renamed, nested])
def test_a_folder_that_has_changed(
    run: Path, folder: Path, tmp_path: Path, change: object
) -> None:
    other = copy_of(folder, tmp_path / "noise")
    change(other)  # type: ignore[operator]
    result = mm.evaluate(run, f"folder:{other}")
    check_at_chance(result)
    assert result.n >= 4


def test_shards_and_a_list_of_the_same_pictures(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    lines = ["path,label"]
    for path in sorted(folder.rglob("*.png")):
        lines.append(f"{path},{path.parent.name}")
    listing = tmp_path / "list.csv"
    listing.write_text("\n".join(lines), encoding="utf-8")
    check_at_chance(mm.evaluate(run, f"list:{listing}"))


@pytest.fixture(scope="module")
def all_seen(run: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder without what was held out."""
    other = copy_of(folder, tmp_path_factory.mktemp("seen") / "noise")
    test = eval_split(f"folder:{folder}", mm.load(run).provenance).images
    for index in range(len(test)):
        (other / test.name(index)).unlink()
    return f"folder:{other}"


def refused(verb: str, run: Path, data: str) -> str:
    if verb == "probe":
        return mm.probe(run, data, shots=[1], linear=False).rows[0].error
    ways = {
        "evaluate": lambda: mm.evaluate(run, data),
        "fewshot": lambda: evaluate_fewshot(mm.load(run), data, shots=[1]),
        "report": lambda: build_report(run, data=data),
    }
    with pytest.raises(UserError) as told:
        ways[verb]()
    return str(told.value)


@pytest.mark.parametrize("verb", ["evaluate", "fewshot", "probe", "report"])
def test_nothing_left_is_refused(run: Path, all_seen: str, verb: str) -> None:
    """Only `evaluate` has --split, so the advice names it, and the advice is right."""
    error = refused(verb, run, all_seen)
    assert "has learnt from all" in error
    assert "`evaluate --split train`" in error
    assert error.count("--") == 1
    counted = mm.evaluate(run, all_seen, split="train")
    assert counted.seen == counted.n > 0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_chain_of_checkpoints(
    run: Path, folder: Path, tmp_path: Path, seed: int, frozen: bool
) -> None:
    """More photos came, so the run is trained on; maybe with another split."""
    grown = copy_of(folder, tmp_path / "noise")
    for number in range(8):
        noise(grown / "ab"[number % 2] / f"new{number}.png", 2000 + number)
    settings = {"data.split_seed": seed, "train.epochs": 1, "train.device": "cpu"}
    out = tmp_path / "second"
    mm.finetune(run, f"folder:{grown}", out, settings=settings, frozen=frozen)
    result = mm.evaluate(out, f"folder:{grown}")
    check_at_chance(result)
    # What the first run held out and the second has not learnt from.
    chosen = eval_split(f"folder:{grown}", mm.load(out).provenance)
    first = eval_split(f"folder:{folder}", mm.load(run).provenance)
    tested = set(chosen.images.keys().tolist())
    learnt = {*map(int, mm.open_dataset(f"folder:{folder}").all().keys())}
    learnt -= set(first.images.keys().tolist())
    assert not tested & learnt


def test_other_pictures_are_all_used(run: Path, tmp_path: Path) -> None:
    for number in range(20):
        noise(tmp_path / "new" / "ab"[number % 2] / f"{number}.png", 5000 + number)
    result = mm.evaluate(run, f"folder:{tmp_path / 'new'}")
    assert (result.n, result.split, result.seen) == (20, "all images", 0)


def test_weights_that_say_nothing_are_not_said_to_be_clean(folder: Path) -> None:
    assert eval_split(f"folder:{folder}", {}).seen is None
    assert eval_split(f"folder:{folder}", {}, "train").seen is None


def test_a_linear_probe_learns_from_all_but_the_test_images(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    config = api.finetune_config(run, f"folder:{folder}")
    row = fit_head(config, tmp_path / "probe")
    result = mm.evaluate(tmp_path / "probe", f"folder:{folder}")
    check_at_chance(result)
    assert row["n"] == 120 - result.n


def test_pictures_learnt_without_labels_judge_and_are_told(
    run: Path, folder: Path
) -> None:
    """Who pre-trained on all pictures has no others; the number says so."""
    dataset = mm.open_dataset(f"folder:{folder}")
    seen = SeenImages.of(dataset.all(), labelled=False)
    chosen = eval_split(dataset, {"seen": seen.to_json()})
    assert (len(chosen.images), chosen.seen) == (120, 0)
    assert chosen.split == "all images, 120 of which it has seen without labels"
    # With the labels of some: those are left out.
    first = SeenImages.from_provenance(mm.load(run).provenance)
    assert first is not None
    chosen = eval_split(dataset, {"seen": (seen | first).to_json()})
    held_out = len(chosen.images)
    assert held_out < 40
    words = f"test (20 % held out by seed 0), {held_out} of which it has seen"
    assert chosen.split == f"{words} without labels"


def test_a_dataset_of_mixed_splits_cannot_be_tested_on(
    folder: Path, tmp_path: Path
) -> None:
    """Its images came to the network in another coding, so that no key tells them."""
    origin = {"seen": SeenImages.of().to_json() | {"sources": ["digits"]}}
    with pytest.raises(UserError, match="may have learnt from any image of digits"):
        eval_split("digits", origin)
    every = eval_split("digits", origin, "all")
    assert every.seen == len(every.images)
    assert "may have learnt from" in every.split
    assert eval_split(f"folder:{folder}", origin).seen == 0


def test_of_a_training_split_the_test_split_is_clean() -> None:
    origin = {"seen": SeenImages.of().to_json() | {"sources": ["digits train"]}}
    assert eval_split("digits", origin).seen == 0
    learnt = eval_split("digits", origin, "train")
    assert learnt.seen == len(learnt.images)


def test_what_began_from_it_remembers_that(folder: Path, tmp_path: Path) -> None:
    seen_before = SeenImages.of().to_json() | {"sources": ["cifar100", "digits"]}
    weights = mm.save(
        tmp_path / "weights.safetensors",
        mm.create_model("mixer_pico2", num_classes=2, in_channels=1),
        preprocess=mm.Preprocess((8, 8), 1, mean=(0.3,), std=(0.4,)),
        labels=("a", "b"),
        provenance={"seen": seen_before},
    )
    settings = {"train.steps": 1, "train.device": "cpu", "model.init": str(weights)}
    mm.train("finetune_small", tmp_path / "run", data="digits", settings=settings)
    origin = mm.load(tmp_path / "run").provenance
    seen = SeenImages.from_provenance(origin)
    assert seen is not None
    assert seen.sources == ("cifar100", "digits")
    assert len(seen.short_keys) > 1000
    with pytest.raises(UserError, match="any image of digits"):
        mm.evaluate(tmp_path / "run", "digits")
