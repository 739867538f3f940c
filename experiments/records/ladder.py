"""The ladder of results: a recipe as it stands, several seeds, each one look at the
test images, by the public API.

    python experiments/records/ladder.py RECIPE --data SPEC [--seeds 3] [--epochs 10,30]
    [--set FIELD=VALUE ...]

A seed decides the weights, the order, the validation split and, where the data has no
test split of its own, the test split. A row is kept as soon as it is measured, and a
run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from mlp_mixer import cost, load
from mlp_mixer.config import override
from mlp_mixer.evaluation import evaluate_checkpoint
from mlp_mixer.recipes import get_recipe
from mlp_mixer.recipes.rescale import rescale
from mlp_mixer.training import TrainConfig, train

RENAMED = {
    "fashion_mnist_10min": "fashion_mnist_12ep",
    "fashion_mnist_30min": "fashion_mnist_28ep",
}
"""What the recipes of older rows are called now."""
VIEWS = ("none", "flip", "shift")
TOPS = ("top1", "top1_flip", "top1_shift")


def measured(
    config: TrainConfig, folder: Path, views: tuple[str, ...]
) -> dict[str, Any]:
    """Train in `folder` (or go on there) and look at the test images with each kind of
    views.
    """
    wall = time.perf_counter()
    cpu = time.process_time()
    best = train(config, folder, resume=True, report=progress)
    spent = {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }
    checkpoint = load(folder / "best.safetensors")
    results = {
        view: evaluate_checkpoint(checkpoint, config.data.source, "test", tta=view)[1]
        for view in views
    }
    price = cost(checkpoint.model.config)
    return {
        "top1": results["none"].top1,
        **{
            f"top1_{view}": result.top1
            for view, result in results.items()
            if view != "none"
        },
        "n": results["none"].n,
        "val_top1": best.get("top1"),
        **spent,
        "train_s": round(trained_seconds(folder), 1),
        "epochs": config.train.epochs,
        "params": sum(p.numel() for p in checkpoint.model.parameters()),
        "mmacs": round(price.macs / 1e6, 2),
    }


def trained_seconds(folder: Path) -> float:
    """Seconds of the steps alone, from the journal: images divided by images a second,
    whoever did them.
    """
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    return sum(row["seconds"] for row in rows if "seconds" in row)


def progress(row: dict[str, Any]) -> None:
    if row.get("kind") == "eval":
        print(
            f"  epoch {row['epoch']:g}: {row.get('top1', float('nan')):.4f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True, help="such as cifar10:PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs",
        help="schedules of these lengths, such as 10,30 (default: the recipe's own)",
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="FIELD=VALUE"
    )
    parser.add_argument(
        "--views", default=",".join(VIEWS), help="of the test images: none,flip,shift"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results; default: results/ladder beside this file",
    )
    choice = parser.parse_args()
    choice.budget = "ladder"
    results = common.Results(choice, __file__)
    views = tuple(dict.fromkeys(("none", *choice.views.split(","))))
    lengths = (
        [float(length) for length in choice.epochs.split(",")]
        if choice.epochs
        else [None]
    )
    for length in lengths:
        config = override(
            rescale(get_recipe(choice.recipe), epochs=length)[0],
            [f"data.source={json.dumps(choice.data)}", *choice.settings],
        )
        label = " ".join(
            [choice.recipe, f"{config.train.epochs:g} epochs", *sorted(choice.settings)]
        )
        for seed in range(choice.seeds):
            name = f"{label} seed {seed}"
            ours = replace(
                config,
                data=replace(config.data, split_seed=seed),
                train=replace(config.train, seed=seed),
            )
            folder = results.folder / "runs" / name.replace("/", "_")
            results.get(name, partial(measured, ours, folder, views))
    common.write_up(choice, __file__, told(results, choice.budget))


def told(results: common.Results, _: str) -> str:
    """All runs of the ladder, seeds together: what is in the README's table."""
    lines = []
    for label in results.labels():
        rows = list(results.seeds(label).values())
        tops = [
            common.spread([row[key] for row in rows]) if key in rows[0] else "-"
            for key in TOPS
        ]
        seconds = [median_told(rows, key) for key in ("train_s", "cpu_s")]
        size = [f"{rows[0]['params'] / 1e6:.2f} M", f"{rows[0]['mmacs']:g}"]
        recipe, _, settings = label.partition(" ")
        name = f"{RENAMED.get(recipe, recipe)} {settings}"
        lines.append([name, images_told(rows), *tops, *size, *seconds])
    heads = [
        "recipe",
        "n",
        "top-1, %",
        "flip",
        "shift",
        "parameters",
        "MMACs",
        "training, s",
        "processor, s",
    ]
    return common.table(heads, lines)


def median_told(rows: list[dict[str, Any]], key: str) -> str:
    """The median over the seeds; rows written down later do not have every figure."""
    values = [row[key] for row in rows if key in row]
    return f"{statistics.median(values):.0f}" if values else "-"


def images_told(rows: list[dict[str, Any]]) -> str:
    """Runs and test images of each; seeds that draw their own have not equally many."""
    counts = [row["n"] for row in rows]
    text = f"{len(rows)} x {statistics.mean(counts):,.0f}"
    if min(counts) == max(counts):
        return text
    return f"{text} ({min(counts):,} to {max(counts):,})"


if __name__ == "__main__":
    main()
