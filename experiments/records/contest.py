"""CIFAR-10, 20 processor minutes (ten of two cores): our recipe, and Mixers of others
trained as their sources say.

    python experiments/records/contest.py --budget smoke|cpu [--data cifar10:PATH]
    [--out FOLDER] [--threads 1]
        [--seconds 1200] [--seeds 3] [--who "ours;timm"]

Everyone has the same processor seconds for training; the test images are looked at
once, when it is over. Making batches counts, and so does whatever a recipe measures on
the way; imports and reading the data do not.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
import contests
from clock import (
    OURS,
    SMALL,
    asked,
    chosen,
    cpu_seconds,
    open_images,
    train_for,
)
from peers import PEERS

from mlp_mixer import Preprocess, load
from mlp_mixer.config import override
from mlp_mixer.data.dataset import Dataset
from mlp_mixer.evaluation import evaluate
from mlp_mixer.recipes import get_recipe
from mlp_mixer.recipes.rescale import rescale
from mlp_mixer.training import train

# of the time that is left to ours after its first steps: a machine that gets busier is
# slower afterwards
SPARE = 0.9


def ours(
    choice: Any, source: Dataset, seconds: float, seed: int, run: Path
) -> dict[str, Any]:
    """Our recipe by the package's own `train`; its length is from the rate of its first
    steps, which count too.
    """
    settings = [
        "data.val_fraction=0",
        f"train.seed={seed}",
        f"train.threads={choice.threads}",
        "train.device=cpu",
    ]
    config = override(get_recipe(OURS), settings + SMALL * choice.smoke)
    ticks = list[float]()
    steps = 40
    begin = time.perf_counter()
    cpu = cpu_seconds()

    def tick(row: dict[str, Any]) -> None:
        if "images_per_second" in row:
            ticks.append(cpu_seconds())

    probe = override(
        config, [f"train.steps={steps}", f"train.log_every_steps={steps // 2}"]
    )
    train(probe, run, source=source, overwrite=True, report=tick)
    spent = cpu_seconds() - cpu
    size = config.train.batch_size
    rate = steps // 2 * size / (ticks[1] - ticks[0])  # of the second half
    beside = max(
        0.0, spent - steps * size / rate
    )  # opening, whitening, saving: once more
    epochs = max(1, rate * (seconds - spent - beside) * SPARE) / len(source.train)
    config = override(
        rescale(config, epochs=epochs)[0], [f"train.eval_every_epochs={epochs}"]
    )
    train(config, run, source=source, overwrite=True)
    seen = round(epochs * len(source.train)) + steps * size
    spent = cpu_seconds() - cpu
    row = {
        "images": seen,
        "wall_s": time.perf_counter() - begin,
        "cpu_s": spent,
        "images_per_s": seen / spent,
    }
    trained = load(run / "last.safetensors")
    return row | test_accuracy(trained.model, source, trained.preprocess)


def theirs(name: str, source: Dataset, seconds: float, seed: int) -> dict[str, Any]:
    """One of the others."""
    torch.manual_seed(seed)
    images = torch.from_numpy(source.train.images).permute(0, 3, 1, 2).contiguous()
    peer = PEERS[name](
        images, torch.from_numpy(source.train.labels), len(source.train.classes)
    )
    preprocess = Preprocess((32, 32), resize="none", mean=peer.mean, std=peer.std)
    return train_for(seconds, peer) | test_accuracy(peer.model, source, preprocess)


def test_accuracy(
    model: torch.nn.Module, source: Dataset, preprocess: Preprocess
) -> dict[str, Any]:
    """The one look at the test images, one view of each, and what the network costs."""
    params = sum(p.numel() for p in model.parameters())
    mmacs = competitors.mmacs(model, 32, 3)
    return {
        "top1": evaluate(model, source.test, preprocess, workers=0).top1,
        "params": params,
        "mmacs": mmacs,
    }


def main() -> None:
    choice = asked(__doc__, "contest", seconds=1200)
    seconds = choice.seconds
    seeds = choice.seeds
    who = chosen(choice.who, ["ours", *PEERS])
    results = common.Results(choice, __file__)
    source = open_images(choice.data)
    for seed in range(seeds):  # all once before any twice
        for name in who:
            run = partial(
                ours,
                choice,
                source,
                seconds,
                seed,
                results.folder / "runs" / f"ours_{seed}",
            )
            results.get(
                f"{name} seed {seed}",
                run if name == "ours" else partial(theirs, name, source, seconds, seed),
            )
    text = told(results, choice.budget, len(source.train))
    common.write_up(choice, __file__, text)


def told(results: common.Results, _: str, images: int = contests.CIFAR10) -> str:
    names = [name for name in ("ours", *PEERS) if results.seeds(name)]
    about = f"Ours: `{OURS}`."
    return contests.told(results, names, images, about, rates=False)


if __name__ == "__main__":
    main()
