"""The Mixer of the Keras example beside ours, for the same processor seconds.

    python experiments/keras_cifar100/run.py --budget smoke|cpu|gpu|full [--data
    cifar100:PATH] [--out FOLDER] [--seconds 400] [--seeds 3]

Keras: 64 pixels in patches of 8, C = 256, D_S = D_C = 64, and the example's recipe
    (AdamW at 5e-3 from the first step, flips and zoom, dropout).
Ours: 32 pixels in patches of 4, so as many patches; C = 128, D_S = 64, D_C = 256; and
    the recipe `cifar10_16ep` (Muon, a whitened stem, averaged weights, flips and
    shifts).
Between them: the example's network by our recipe.

How many epochs the seconds buy is measured first, on a twentieth of them, the networks
in turns; the seconds that each run took stand in its row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from mlp_mixer import cost, load, open_dataset
from mlp_mixer.config import override
from mlp_mixer.evaluation import evaluate
from mlp_mixer.recipes import get_recipe
from mlp_mixer.recipes.keras_example import keras_cifar100
from mlp_mixer.training import train
from mlp_mixer.training.config import TrainConfig

SECONDS = {"smoke": 0.2, "cpu": 400.0, "gpu": 3600.0, "full": 36_000.0}
REHEARSED = 16  # images of a step in a rehearsal
SEEDS = {"smoke": 1, "cpu": 3, "gpu": 5, "full": 5}
TURNS = 3  # of the measurement of speed


@dataclass(frozen=True)
class Entry:
    """A network and a recipe; the network is "Keras" or "ours", and so is the recipe."""

    network: str
    recipe: str

    @property
    def name(self) -> str:
        return f"network {self.network} recipe {self.recipe}"

    def config(self) -> TrainConfig:
        example = keras_cifar100()
        config = example if self.recipe == "Keras" else get_recipe("cifar10_16ep")
        if self.network == "Keras":
            stem = config.model.stem
            return replace(config, model=replace(example.model, stem=stem))
        return replace(config, model=replace(config.model, channels_mlp_dim=256))


ENTRIES = (Entry("Keras", "Keras"), Entry("ours", "ours"), Entry("Keras", "ours"))


def settings(choice: argparse.Namespace, entry: Entry, seed: int) -> list[str]:
    """What all runs have in common, and what the digits of a smoke test need."""
    common_to_all = [
        f"data.source={json.dumps(choice.data)}",
        "data.workers=0",
        "data.val_fraction=0.02",
        f"train.seed={seed}",
        f"train.threads={choice.threads}",
        f"train.device={choice.device}",
        "train.precision=fast",
        "train.eval_every_epochs=100000",
    ]
    if choice.data != "digits":
        return common_to_all
    size, patch = (16, 2) if entry.network == "Keras" else (8, 1)
    return [
        *common_to_all,
        f"model.image_size={size}",
        f"model.patch_size={patch}",
        f"train.batch_size={REHEARSED}",
        "preprocess.mean=[0.305]",
        "preprocess.std=[0.376]",
    ]


def trained(
    choice: argparse.Namespace, entry: Entry, seed: int, length: str, run: Path
) -> float:
    """Train in `run`, and return the processor seconds.

    length: As a setting, such as "train.steps=100".
    """
    config = override(entry.config(), [*settings(choice, entry, seed), length])
    start = time.process_time()
    train(config, run, overwrite=True)
    return time.process_time() - start


def speed(choice: argparse.Namespace, entry: Entry, run: Path) -> dict[str, Any]:
    """The processor seconds of a step, and of what a run needs beside its steps."""
    steps = 2 if choice.data == "digits" else 100
    one = trained(choice, entry, 0, "train.steps=1", run)
    many = trained(choice, entry, 0, f"train.steps={steps + 1}", run)
    return {"step_s": (many - one) / steps, "start_s": one}


def measure(
    choice: argparse.Namespace, entry: Entry, seed: int, steps: int, run: Path
) -> dict[str, Any]:
    """Train, and look at the test images once."""
    seconds = trained(choice, entry, seed, f"train.steps={steps}", run)
    found = load(run / "last.safetensors")
    data = open_dataset(choice.data)
    device = torch.device(choice.device)
    test = evaluate(found.model, data.test, found.preprocess, workers=0, device=device)
    counted = cost(found.model)
    batch = entry.config().train.batch_size if choice.data != "digits" else REHEARSED
    images = steps * batch
    return {
        "params": counted.params,
        "mmacs": counted.macs / 1e6,
        "epochs": images / len(data.train),
        "cpu_s": round(seconds, 1),
        "top1": test.top1,
        "top5": test.top5,
        "n": test.n,
    }


def steps_of(results: common.Results, entry: Entry, seconds: float) -> int:
    """How many steps fit into so many processor seconds."""
    rows = [results.rows[f"speed of {entry.name} {turn}"] for turn in range(TURNS)]
    step = statistics.median(row["step_s"] for row in rows)
    start = statistics.median(row["start_s"] for row in rows)
    return max(2, round((seconds - start) / step))


def in_words(results: common.Results, seeds: int) -> str:
    headings = [
        "network",
        "recipe",
        "parameters",
        "MMACs",
        "epochs",
        "processor s",
        "test top-1, %",
        "top-5, %",
    ]
    lines = []
    for entry in ENTRIES:
        first = results.rows[f"{entry.name} seed 0"]
        top1, top5, cpu_s = (
            results.of_seeds(entry.name, seeds, key)
            for key in ("top1", "top5", "cpu_s")
        )
        line = [
            entry.network,
            entry.recipe,
            f"{first['params']:,}",
            f"{first['mmacs']:.1f}",
            f"{first['epochs']:.1f}",
            common.spread(cpu_s, "{:.0f}", 1),
            common.spread(top1),
            common.spread(top5),
        ]
        lines.append(line)
    return common.table(headings, lines)


def draw(results: common.Results, seeds: int) -> None:
    with common.picture(results.folder / "top1.svg", height=2.6) as axes:
        colours = [common.COLOURS[name] for name in ("other", "Mixer", "ResNet")]
        for place, entry in enumerate(ENTRIES):
            values = 100 * np.array(results.of_seeds(entry.name, seeds))
            axes.bar(place, values.mean(), 0.6, color=colours[place])
            axes.plot([place] * seeds, values, "o", color="#333333")
        names = [
            f"{entry.network} network,\n{entry.recipe} recipe" for entry in ENTRIES
        ]
        axes.set_xticks(range(len(ENTRIES)), names)
        axes.set_ylabel("test top-1, %")


def main() -> None:
    choice = common.arguments(__doc__ or "", more=["--seconds", "--seeds"])
    seconds = float(choice.seconds or SECONDS[choice.budget])
    seeds = int(choice.seeds or SEEDS[choice.budget])
    results = common.Results(choice, __file__)
    runs = results.folder / "runs"
    for turn in range(TURNS):
        for entry in ENTRIES:
            name = f"speed of {entry.name} {turn}"
            results.get(name, partial(speed, choice, entry, runs / "speed"))
    for seed in range(seeds):
        for entry in ENTRIES:
            name = f"{entry.name} seed {seed}"
            steps = steps_of(results, entry, seconds)
            run = runs / name.replace(" ", "_")
            results.get(name, partial(measure, choice, entry, seed, steps, run))
    last = results.rows[f"{ENTRIES[0].name} seed 0"]
    where = choice.data.partition(":")[0]
    text = f"{where}, n = {last['n']:,}, {seeds} seeds. {last['machine']}."
    draw(results, seeds)
    common.write_up(choice, __file__, f"{in_words(results, seeds)}\n\n{text}")


if __name__ == "__main__":
    main()
