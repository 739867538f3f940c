"""Fine-tuning as it is by default, beside its shortcut, on 100 to 1,800 images.

    python experiments/records/small_folders.py --budget smoke|cpu [--data folder:PATH]
        [--sizes 100,300,1800] [--seeds 3] [--out FOLDER] [--threads 1]

auto: `mlp-mixer finetune --data ...`, which takes the weights in the package.
frozen: the same with `--frozen`, a head on features that stay as they are.
random: `--frozen` on the same network with random weights: what the pixels alone give.

Each seed draws its own images, as many of each class, and is that of the training. The
dataset's test images are looked at once a row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
from clock import open_images

from mlp_mixer import ArraySet, Dataset, MlpMixer, api, evaluate, load, save
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.weights.catalog import START

WAYS = ("auto", "frozen", "random")
SIZES = {"smoke": "20", "cpu": "100,300,1800", "gpu": "100,300,1800"}


def in_colour(images: ImageSet) -> ImageSet:
    """Gray images in three channels, as the weights take them; others as they are."""
    if images.channels == 3 or not isinstance(images, ArraySet):
        return images
    return ArraySet(images.images.repeat(3, axis=3), images.labels, images.classes)


def drawn(images: ImageSet, count: int, seed: int) -> ImageSet:
    """So many images by chance, as many of each class."""
    rng = np.random.default_rng(seed)
    rows = []
    classes = len(images.classes)
    for label in range(classes):
        own = rng.permutation(np.flatnonzero(images.labels == label))
        rows.append(own[: count // classes])
    return images.take(np.sort(np.concatenate(rows)))


def random_weights(image_size: int, patch_size: int, seed: int, path: Path) -> Path:
    """The network of the bundled weights, with weights by chance."""
    torch.manual_seed(seed)
    bundled = load(START)
    size = (image_size, image_size)
    config = replace(bundled.model.config, image_size=size, patch_size=patch_size)
    preprocess = replace(bundled.preprocess, image_size=size)
    return save(path, MlpMixer(config), preprocess=preprocess)


def measure(
    choice: argparse.Namespace, source: Dataset, count: int, way: str, seed: int
) -> dict[str, Any]:
    """Learn from `count` images, and look at the test images once."""
    data = replace(source, train=drawn(source.train, count, seed))
    settings: dict[str, Any] = {
        "train.seed": seed,
        "train.threads": choice.threads,
        "train.device": choice.device,
        "data.workers": 0,
    }
    if choice.smoke:
        settings["train.steps"] = 2
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        weights: Path | None = None
        start = time.process_time()
        if way == "random":
            chosen = api.finetune_config(None, data).model
            own = load(START).model.config
            weights = random_weights(
                chosen.image_size or own.image_size[0],
                chosen.patch_size or own.patch_size,
                seed,
                Path(folder) / "random.safetensors",
            )
        frozen = way != "auto"
        api.finetune(weights, data, run, settings=settings, frozen=frozen)
        seconds = time.process_time() - start
        found = evaluate(run, data)
    return {
        "top1": found.top1,
        "n": found.n,
        "loss": found.loss,
        "cpu_s": round(seconds, 1),
    }


def in_words(results: common.Results, sizes: list[int], seeds: int) -> str:
    lines = []
    for count in sizes:
        for way in WAYS:
            label = f"{count} {way}"
            top1 = results.of_seeds(label, seeds)
            loss = results.of_seeds(label, seeds, "loss")
            seconds = results.of_seeds(label, seeds, "cpu_s")
            line = [
                f"{count:,}",
                way,
                common.spread(top1),
                f"{statistics.mean(loss):.2f}",
                f"{statistics.mean(seconds):.0f}",
            ]
            lines.append(line)
    headings = ["images", "way", "test top-1, %", "loss", "processor s"]
    return common.table(headings, lines)


def main() -> None:
    choice = common.arguments(__doc__ or "", more=["--sizes", "--seeds"])
    choice.smoke = choice.budget == "smoke"
    source = open_images(choice.data)
    assert source.test is not None
    source = replace(
        source, train=in_colour(source.train), test=in_colour(source.test), val=None
    )
    sizes = [int(part) for part in (choice.sizes or SIZES[choice.budget]).split(",")]
    seeds = int(choice.seeds or (1 if choice.smoke else 3))
    kind = choice.data.partition(":")[0]
    choice.budget = f"{choice.budget}/small_folders_{kind}"
    results = common.Results(choice, __file__)
    for seed in range(seeds):
        for count in sizes:
            for way in WAYS:
                job = partial(measure, choice, source, count, way, seed)
                results.get(f"{count} {way} seed {seed}", job)
    last = results.rows[f"{sizes[-1]} auto seed 0"]
    about = f"{kind}, {last['n']:,} test images, {seeds} seeds. {last['machine']}."
    common.write_up(choice, __file__, f"{in_words(results, sizes, seeds)}\n\n{about}")


if __name__ == "__main__":
    main()
