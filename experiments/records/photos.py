"""Photographs at 224 pixels from scratch: Mixer-S/32 beside timm's ResNet-18 and ViT-S,
for the same processor seconds.

    python experiments/records/photos.py --budget smoke|cpu [--data folder:PATH] [--out
    FOLDER] [--threads 1]
        [--seconds 480] [--seeds 3] [--who "Mixer-S/32;ResNet-18"]

One recipe for all: AdamW, weight decay 0.1, batches of 64, crops of 25 to 100 %, flips,
    label smoothing 0.1, clipping
at 1, bf16, a warm-up of a twentieth of the time and a cosine to its end. The learning
rate of each network is the best of three on a fifth of the training images, in half of
the time; then it learns from all, and the test images are looked at once. Images are
decoded once, to 256 pixels, and kept as bytes.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
from clock import HEADS, Batches, Entry, asked, cells, chosen, train_for
from peers import warm_cosine
from torch import nn

from mlp_mixer import ArraySet, Preprocess, create_model, open_dataset
from mlp_mixer.data.dataset import stratified_split
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.evaluation import evaluate
from mlp_mixer.images.settings import Augment
from mlp_mixer.training.config import OptimChoice
from mlp_mixer.training.optim.build import build_optimizer

RATES = (3e-4, 1e-3, 3e-3)
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "Mixer-S/32": lambda K: create_model(
        "mixer_s32", num_classes=K, gelu="erf", drop_path=0.1
    ),
    "ResNet-18": lambda K: timm.create_model("resnet18", num_classes=K).to(
        memory_format=torch.channels_last
    ),
    "ViT-S/32": lambda K: timm.create_model("vit_small_patch32_224", num_classes=K),
    "ViT-S/16": lambda K: timm.create_model("vit_small_patch16_224", num_classes=K),
}


def decoded(images: ImageSet, most: int) -> ArraySet:
    """The images at 256 x 256 pixels in memory, or `most` of them by chance; gray ones
    in RGB.
    """
    fit = Preprocess((256, 256), images.channels, crop_pct=1.0)
    kept = np.random.default_rng(0).permutation(len(images))[:most]
    pixels = np.stack([fit.fit(images.image(int(index))) for index in kept])
    return ArraySet(
        np.repeat(pixels, 3 // images.channels, 3), images.labels[kept], images.classes
    )


def measure(
    choice: Any,
    name: str,
    images: ArraySet,
    test: ArraySet,
    lr: float,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Train one network on `images` for that long and look at `test` once."""
    torch.manual_seed(seed)
    model = NETWORKS[name](len(images.classes)).to(choice.device)
    preprocess = Preprocess((224, 224), crop_pct=224 / 256)
    augment = Augment(crop="inception", area=(0.25, 1.0), flip=True)
    stream = TrainBatches(images, preprocess, augment, 2 if choice.smoke else 64, seed)

    def batches() -> Batches:
        for step in itertools.count():
            batch = stream[step]
            form = (
                torch.channels_last if name == "ResNet-18" else torch.contiguous_format
            )
            yield (
                preprocess.normalize(batch.images).contiguous(memory_format=form),
                batch.labels,
            )

    optimizer = build_optimizer(model, OptimChoice(lr=lr, weight_decay=0.1))
    entry = Entry(
        model,
        optimizer,
        batches(),
        smoothing=0.1,
        factor=warm_cosine,
        clip=1.0,
        bf16=True,
    )
    row = train_for(seconds, entry)
    cost = {
        "params": sum(p.numel() for p in model.parameters()),
        "mmacs": competitors.mmacs(model, 224, 3),
        "lr": lr,
    }
    return {"top1": evaluate(model, test, preprocess, workers=0).top1, **row, **cost}


def main() -> None:
    choice = asked(__doc__, "photos", seconds=480, smoke=0.1)
    seconds = choice.seconds
    seeds = choice.seeds
    results = common.Results(choice, __file__)
    source = open_dataset(choice.data)
    lines = []
    images, test = (
        decoded(part, 12 if choice.smoke else 100_000)
        for part in (source.train, source.test)
    )
    rest, held = (
        images.subset(part) for part in stratified_split(images.labels, 0.2, 0)
    )
    for name in chosen(choice.who, list(NETWORKS)):
        picks = {}
        for lr in RATES[1:2] if choice.smoke else RATES:
            pick = partial(measure, choice, name, rest, held, lr, seconds / 2, 0)
            picks[lr] = results.get(f"pick {name} lr {lr:g}", pick)["top1"]
        run = partial(
            measure,
            choice,
            name,
            images,
            test,
            max(picks, key=lambda lr: picks[lr]),
            seconds,
        )
        rows = [
            results.get(f"{name} seed {seed}", partial(run, seed))
            for seed in range(seeds)
        ]
        lines.append([name, f"{rows[0]['lr']:g}", *cells(rows, len(images))])
    text = f"{common.table(['network', 'lr', *HEADS], lines)}\n\n{len(images):,} photographs to learn from, "
    text += f"{len(test):,} to test; {seconds:g} processor seconds, n = {seeds}. {rows[0]['machine']}."
    common.write_up(choice, __file__, text)


if __name__ == "__main__":
    main()
