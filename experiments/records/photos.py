"""Photographs from scratch: Mixers beside timm's ResNet-18 and ViTs, small and large.

    python experiments/records/photos.py --budget smoke|cpu [--data folder:PATH] [--out
    FOLDER] [--threads 1]
        [--seconds 400] [--seeds 3] [--who "Mixer 64/8;ResNet-18 96"]

All for the same processor seconds, at 64, 96 and 224 pixels. Common to all: batches of
    64, crops of 25 to 100 %, flips, label smoothing 0.1, clipping at 1, a warm-up of a
    twentieth of the time and a decay to its end. Each network has the optimiser that
    suits it, and the learning rate that is best of three on a fifth of the training
    images in half of the time; if that is the lowest or the highest, the next one beside
    it is tried too, so that the rates bracket the best. Then it learns from all, and the
    test images are looked at once. Images are decoded once, to 256 pixels, and kept as
    bytes.

Beside them, what costs seconds: ridge regression on raw pixels, and a linear probe on
the bundled weights.
"""

from __future__ import annotations

import copy
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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

from mlp_mixer import ArraySet, Dataset, Preprocess, api, create_model, open_dataset
from mlp_mixer.data.dataset import stratified_split
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.data.loader import TrainBatches
from mlp_mixer.devices import cpu_computes_bf16
from mlp_mixer.evaluation import evaluate
from mlp_mixer.images.settings import Augment
from mlp_mixer.recipes import get_recipe
from mlp_mixer.recipes.finetune import finetune_auto
from mlp_mixer.training.config import OptimChoice
from mlp_mixer.training.extras.linear_probe import fit_head
from mlp_mixer.training.extras.whiten import whiten
from mlp_mixer.training.optim.build import Ema, build_optimizer
from mlp_mixer.weights.catalog import START

RECIPE = get_recipe("photos")
BATCH = 64
SIDE_DECODED = 256


@dataclass(frozen=True)
class Contestant:
    """A network and how it is trained.

    Attributes:
        build: From the number of classes to a network.
        side: Of its images, in pixels.
        optim: Its optimiser; the learning rate is the middle one of the three.
        ema: Decay of an average of the weights, which is then evaluated; 0: none.
        whitened: Whether its stem begins with the patches' own directions.
        channels_last: Whether its weights and images lie so.
    """

    build: Callable[[int], nn.Module]
    side: int
    optim: OptimChoice
    ema: float = 0.0
    whitened: bool = False
    channels_last: bool = False


ADAMW = OptimChoice(lr=1e-3, weight_decay=0.1)
SGD = OptimChoice(name="sgd", lr=0.1, weight_decay=5e-4, nesterov=True)


def small_mixer(side: int, classes: int) -> nn.Module:
    """The network of the recipe `photos` for images of another size."""
    model = RECIPE.model
    return create_model(
        model.name,
        num_classes=classes,
        image_size=side,
        patch_size=model.patch_size,
        num_blocks=model.num_blocks,
        channels_mlp_dim=model.channels_mlp_dim,
        gelu=model.gelu,
    )


def large_mixer(classes: int) -> nn.Module:
    return create_model("mixer_s32", num_classes=classes, gelu="erf", drop_path=0.1)


def resnet(classes: int) -> nn.Module:
    model = timm.create_model("resnet18", num_classes=classes)
    return model.to(memory_format=torch.channels_last)


def vit(side: int, patch: int, classes: int) -> nn.Module:
    size = {"img_size": side, "patch_size": patch, "num_classes": classes}
    return timm.create_model("vit_tiny_patch16_224", **size)


CONTESTANTS: dict[str, Contestant] = {
    "Mixer 64/8": Contestant(
        partial(small_mixer, 64), 64, RECIPE.optim, ema=0.99, whitened=True
    ),
    "Mixer 96/8": Contestant(
        partial(small_mixer, 96), 96, RECIPE.optim, ema=0.99, whitened=True
    ),
    "Mixer-S/32 224": Contestant(large_mixer, 224, replace(ADAMW, lr=3e-4)),
    "ResNet-18 96": Contestant(resnet, 96, SGD, channels_last=True),
    "ResNet-18 224": Contestant(resnet, 224, SGD, channels_last=True),
    "ViT-Ti/8 96": Contestant(partial(vit, 96, 8), 96, ADAMW),
    "ViT-Ti/16 224": Contestant(partial(vit, 224, 16), 224, ADAMW),
}
FACTOR = 3.0  # between neighbouring learning rates


def decoded(images: ImageSet, most: int) -> ArraySet:
    """The images at 256 x 256 pixels in memory, or `most` of them by chance; gray ones
    in RGB.
    """
    size = (SIDE_DECODED, SIDE_DECODED)
    fit = Preprocess(size, images.channels, crop_pct=1.0)
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
    entrant = CONTESTANTS[name]
    torch.manual_seed(seed)
    model = entrant.build(len(images.classes)).to(choice.device)
    preprocess = Preprocess((entrant.side, entrant.side), crop_pct=0.875)
    if entrant.whitened:
        whiten(model.stem, images, preprocess, seed)
    augment = Augment(crop="inception", area=(0.25, 1.0), flip=True)
    batch = 2 if choice.smoke else BATCH
    stream = TrainBatches(images, preprocess, augment, batch, seed)
    averaged = follower_of(model, entrant)

    def batches() -> Batches:
        form = torch.contiguous_format
        if entrant.channels_last:
            form = torch.channels_last
        for step in itertools.count():
            # The average takes in the step before.
            if averaged and step:
                averaged[1].update(step - 1)
            made = stream[step]
            x = preprocess.normalize(made.images).contiguous(memory_format=form)
            yield x, made.labels

    entry = Entry(
        model,
        build_optimizer(model, replace(entrant.optim, lr=lr)),
        batches(),
        smoothing=0.1,
        factor=warm_cosine,
        clip=1.0,
        bf16=cpu_computes_bf16() or choice.device != "cpu",
    )
    row = train_for(seconds, entry)
    final = averaged[0] if averaged else model
    cost = {
        "params": sum(p.numel() for p in model.parameters()),
        "mmacs": competitors.mmacs(model, entrant.side, 3),
        "lr": lr,
    }
    return {"top1": evaluate(final, test, preprocess, workers=0).top1, **row, **cost}


def follower_of(model: nn.Module, entrant: Contestant) -> tuple[nn.Module, Ema] | None:
    """A copy of the network that follows it, where the contestant has one."""
    if not entrant.ema:
        return None
    follower = copy.deepcopy(model).eval()
    return follower, Ema(model, follower, entrant.ema)


def best_rate(
    choice: Any, name: str, results: common.Results, run: Callable[[float], Any]
) -> float:
    """The best of three learning rates, and of those beside it until it has neighbours."""
    middle = CONTESTANTS[name].optim.lr
    rates = [middle]
    if not choice.smoke:
        rates = [middle / FACTOR, middle, middle * FACTOR]
    found: dict[float, float] = {}
    while True:
        for lr in rates:
            if lr not in found:
                pick = partial(run, lr)
                found[lr] = results.get(f"pick {name} lr {lr:.3g}", pick)["top1"]
        best = max(found, key=found.__getitem__)
        if choice.smoke or min(found) < best < max(found):
            return best
        rates = [best / FACTOR if best == min(found) else best * FACTOR]


def ridge(images: ArraySet, test: ArraySet) -> dict[str, Any]:
    """Ridge regression on 32 x 32 pixels, its penalty by leave-one-out."""
    from sklearn.linear_model import RidgeClassifierCV

    began = time.process_time()
    fit = Preprocess((32, 32), crop_pct=1.0)
    flat = []
    for part in (images, test):
        rows = [fit.fit(part.image(index)).ravel() for index in range(len(part))]
        flat.append(np.stack(rows).astype(np.float64))
    model = RidgeClassifierCV(alphas=10.0 ** np.arange(4, 9)).fit(
        flat[0], images.labels
    )
    top1 = float(model.score(flat[1], test.labels))
    return {"top1": top1, "cpu_s": time.process_time() - began}


def probe(images: ArraySet, test: ArraySet, out: Path) -> dict[str, Any]:
    """`finetune --frozen` from the bundled weights."""
    began = time.process_time()
    data = Dataset("photos", images, None, test)
    config = finetune_auto(START, "photos", len(images), bundled=True)
    fit_head(config, out, source=data, overwrite=True)
    result = api.evaluate(out, data, device="cpu")
    return {"top1": result.top1, "cpu_s": time.process_time() - began}


def main() -> None:
    choice = asked(__doc__, "photos", seconds=400, smoke=0.1)
    seconds = choice.seconds
    seeds = choice.seeds
    results = common.Results(choice, __file__)
    source = open_dataset(choice.data)
    images, test = (
        decoded(part, 12 if choice.smoke else 100_000)
        for part in (source.train, source.test)
    )
    rest, held = (
        images.subset(part) for part in stratified_split(images.labels, 0.2, 0)
    )
    lines = []
    for name in chosen(choice.who, list(CONTESTANTS)):
        trial = partial(measure, choice, name, rest, held, seconds=seconds / 2, seed=0)
        lr = best_rate(choice, name, results, trial)
        rows = []
        for seed in range(seeds):
            run = partial(measure, choice, name, images, test, lr, seconds, seed)
            rows.append(results.get(f"{name} seed {seed}", run))
        lines.append([name, f"{lr:.2g}", *cells(rows, len(images))])
    with tempfile.TemporaryDirectory() as folder:
        plain = {
            "ridge on pixels": partial(ridge, images, test),
            "bundled, frozen": partial(probe, images, test, Path(folder)),
        }
        for name, run in plain.items():
            row = results.get(name, run)
            blank = "-"
            top1 = f"{100 * row['top1']:.1f}"
            spent = f"{row['cpu_s']:.0f}"
            lines.append([name, blank, blank, blank, top1, blank, blank, spent, blank])
    text = (
        f"{common.table(['network', 'lr', *HEADS], lines)}\n\n{len(images):,} "
        f"photographs to learn from, {len(test):,} to test; {seconds:g} processor "
        f"seconds, n = {seeds}. {rows[0]['machine']}."
    )
    common.write_up(choice, __file__, text)


if __name__ == "__main__":
    main()
