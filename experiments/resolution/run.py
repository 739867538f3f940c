"""Which way of changing the image size keeps most of a trained network's accuracy,
before and after a short fine-tune?

    python experiments/resolution/run.py CHECKPOINT --data cifar10:PATH --out FOLDER
    [--images 2000] [--steps 50]

CHECKPOINT: a network for 32 x 32 pixels in patches of 4. Every size sees the same
    images, scaled by the checkpoint's
own preprocessing. The fine-tunes differ in nothing but the weights they begin with: the
same images, in the same order. Prints a table in Markdown and leaves results.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mlp_mixer import Checkpoint, cost, load, open_dataset, resize, save
from mlp_mixer.config import override
from mlp_mixer.data import ArraySet
from mlp_mixer.evaluation import evaluate
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import train

# side of the image, patch size, what happens to the token mixing (nothing where the
# grid stays 8 x 8)
WAYS = (
    (32, 4, "as trained"),
    (16, 4, "interpolate"),
    (16, 2, "patches scaled"),
    (48, 4, "interpolate"),
    (48, 6, "patches scaled"),
    (64, 4, "block_diagonal"),
    (64, 4, "interpolate"),
    (64, 8, "patches scaled"),
)


def changed(base: Checkpoint, side: int, patch: int, way: str) -> Checkpoint:
    """The checkpoint for images of that side."""
    return resize(
        base,
        side,
        method="block_diagonal" if way == "block_diagonal" else "interpolate",
        patch_size=patch,
    )


def finetuned(start: Path, data: str, out: Path, steps: int, lr: float) -> Checkpoint:
    """A short run from those weights, head included: AdamW, the recipe's augmentation,
    the same images for all.
    """
    settings = [
        *(
            "model.name=mixer_s16",
            "model.gelu=none",
            f"model.init={json.dumps(str(start))}",
        ),
        *(
            f"data.source={json.dumps(data)}",
            "data.val_fraction=0.002",
            "data.workers=0",
        ),
        *(
            f"optim.lr={lr}",
            f"train.steps={steps}",
            "schedule.warmup_steps=10",
            "schedule.warmup_epochs=0",
        ),
        *(
            "train.ema=0",
            "train.threads=1",
            "train.device=cpu",
            "train.eval_every_epochs=100",
        ),
    ]
    train(override(get_recipe("cifar10"), settings), out, overwrite=True)
    return load(out / "last.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--images", type=int, default=2000, help="of the test split, drawn once"
    )
    parser.add_argument(
        "--steps", type=int, default=50, help="of fine-tuning, 128 images each; 0: none"
    )
    parser.add_argument("--lr", type=float, default=3e-4)
    choice = parser.parse_args()
    base = load(choice.checkpoint)
    test = open_dataset(choice.data).test
    assert isinstance(test, ArraySet)
    drawn = np.sort(np.random.default_rng(0).permutation(len(test))[: choice.images])
    images = test.subset(drawn)
    rows = []
    print(
        "| image | patch | grid | token mixing | params | MMACs | top-1 | fine-tuned |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for side, patch, way in WAYS:
        checkpoint = changed(base, side, patch, way)
        config = checkpoint.model.config
        counted = cost(checkpoint.model)
        row = {
            "side": side,
            "patch": patch,
            "way": way,
            "params": counted.params,
            "mmacs": counted.gmacs * 1e3,
        }
        row["before"] = evaluate(
            checkpoint.model, images, checkpoint.preprocess, workers=0
        ).top1
        if choice.steps:
            name = f"{side}_{patch}_{way.replace(' ', '_')}"
            start = save(
                choice.out / f"{name}.safetensors",
                checkpoint.model,
                labels=base.labels,
                preprocess=checkpoint.preprocess,
            )
            tuned = finetuned(
                start, choice.data, choice.out / name, choice.steps, choice.lr
            )
            row["after"] = evaluate(
                tuned.model, images, tuned.preprocess, workers=0
            ).top1
        rows.append(row)
        after = f"{100 * row['after']:.1f} %" if choice.steps else "-"
        print(
            f"| {side} | {patch} | {config.grid[0]} x {config.grid[1]} | {way} | {counted.params:,} | "
            f"{row['mmacs']:.1f} | {100 * row['before']:.1f} % | {after} |",
            flush=True,
        )
    (choice.out / "results.json").write_text(
        json.dumps(vars(choice) | {"rows": rows}, indent=2, default=str) + "\n"
    )


if __name__ == "__main__":
    main()
