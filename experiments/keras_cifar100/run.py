"""The Mixer of the Keras example beside one of ours at equal cost, and its recipe
beside ours.

    python experiments/keras_cifar100/run.py --budget smoke|cpu|gpu|full [--data
    cifar100:PATH] [--out FOLDER]

Keras: 64 pixels in patches of 8, C = 256, D_S = D_C = 64. Ours: 32 pixels in patches of
    4, so as many patches, with the
paper's D_C = 4 C and D_S = C / 2, and C = 92, which makes the multiplications equal.
Each network is trained by the example's recipe (AdamW at 5e-3 from the first step,
flips and zoom) and by that of our `cifar10`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
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
from mlp_mixer.training.config import ModelChoice

OURS = ModelChoice(
    "mixer_nano4",
    num_blocks=4,
    hidden_dim=92,
    tokens_mlp_dim=46,
    channels_mlp_dim=368,
    gelu="erf",
)
EPOCHS = {
    "smoke": (1.0, 1),
    "cpu": (1.5, 3),
    "gpu": (50.0, 5),
    "full": (50.0, 10),
}  # and seeds


def measure(
    choice: argparse.Namespace, network: str, recipe: str, seed: int, run: Path
) -> dict[str, Any]:
    """Train and look at the test images once."""
    config = keras_cifar100() if recipe == "Keras" else get_recipe("cifar10")
    config = dataclasses.replace(
        config, model=keras_cifar100().model if network == "Keras" else OURS
    )
    epochs = EPOCHS[choice.budget][0]
    settings = [
        *(
            f"data.source={json.dumps(choice.data)}",
            "data.workers=0",
            f"train.epochs={epochs}",
            f"train.seed={seed}",
        ),
        *(
            f"train.eval_every_epochs={epochs}",
            f"train.threads={choice.threads}",
            f"train.device={choice.device}",
        ),
        "train.precision=bf16",
    ]
    if recipe == "ours" and epochs < 5:
        settings.append("train.ema=0.99")  # an average over a fifth of so short a run
    if (
        choice.data == "digits"
    ):  # one channel, 8 x 8 pixels; the network's own 64 come from them
        settings += [
            "train.steps=3",
            "preprocess.mean=[0.305]",
            "preprocess.std=[0.376]",
        ]
        settings += (
            ["model.image_size=16", "model.patch_size=2"] if network == "Keras" else []
        )
        settings += (
            [] if network == "Keras" else ["model.image_size=8", "model.patch_size=1"]
        )
    train(override(config, settings), run, overwrite=True)
    trained = load(run / "last.safetensors")
    images = open_dataset(choice.data).test
    device = torch.device(choice.device)
    test = evaluate(trained.model, images, trained.preprocess, workers=0, device=device)
    counted = cost(trained.model)
    return {
        "params": counted.params,
        "mmacs": counted.macs / 1e6,
        "top1": test.top1,
        "top5": test.top5,
    }


def main() -> None:
    choice = common.arguments(__doc__)
    results = common.Results(choice, __file__)
    (epochs, seeds) = EPOCHS[choice.budget]
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for network, recipe in (
            ("Keras", "Keras"),
            ("ours", "ours"),
            ("Keras", "ours"),
            ("ours", "Keras"),
        ):
            name = f"network {network} recipe {recipe} seed {seed}"
            run = results.folder / "runs" / name.replace(" ", "_")
            row = results.get(
                name, partial(measure, choice, network, recipe, seed, run)
            )
            rows.setdefault((network, recipe), []).append(row)
    lines = []
    for (network, recipe), found in rows.items():
        top1, top5 = (
            common.spread([row[key] for row in found]) for key in ("top1", "top5")
        )
        lines.append(
            [
                network,
                recipe,
                f"{found[0]['params']:,}",
                f"{found[0]['mmacs']:.1f}",
                top1,
                top5,
            ]
        )
    text = common.table(
        ["network", "recipe", "parameters", "MMACs", "test top-1, %", "top-5, %"], lines
    )
    text += f"\n\n{choice.data.partition(':')[0]}, {epochs:g} epochs, {seeds} seeds. {found[0]['machine']}."
    with common.picture(results.folder / "top1.svg", height=2.6) as axes:
        for place, (network, colour) in enumerate(
            (("Keras", "other"), ("ours", "Mixer"))
        ):
            values = 100 * np.array(
                [
                    [row["top1"] for row in rows[network, recipe]]
                    for recipe in ("Keras", "ours")
                ]
            )
            at = np.arange(2) + (place - 0.5) * 0.3
            axes.bar(
                at,
                values.mean(1),
                0.28,
                yerr=values.std(1),
                color=common.COLOURS[colour],
                label=network,
            )
        axes.set_xticks([0, 1], ["recipe of Keras", "our recipe"])
        axes.set_ylabel("test top-1, %")
        axes.legend(title="network")
    common.write_up(choice, __file__, text)


if __name__ == "__main__":
    main()
