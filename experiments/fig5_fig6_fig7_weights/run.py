"""Figures 5, 6 and 7: what do the token-mixing units and the embeddings of a trained
Mixer look like?

    python experiments/fig5_fig6_fig7_weights/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER] python experiments/fig5_fig6_fig7_weights/run.py
    --checkpoint WEIGHTS --out FOLDER

Trains Mixers with patches of several sizes and draws their weights as the paper does;
or takes the weights of a checkpoint, or of a name that `mlp_mixer.load` knows. Three
numbers go with the pictures, before and after training: the share of a block's units of
a mean frequency below 0.25 cycles per patch; the mean cosine between each unit and the
one closest to its inverse (-1: perfect pairs); the median frequency of the embedding's
filters, in cycles per pixel.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from mlp_mixer import MlpMixer, load
from mlp_mixer.analysis import mean_frequency, to_png
from mlp_mixer.analysis.figures import weight_figures
from mlp_mixer.config import override
from mlp_mixer.recipes import RECIPES, get_recipe
from mlp_mixer.training import train

#         epochs, seeds, sides of the patches, C, blocks, D_S
SIZES = {"smoke": (1, 1, (2, 4), 32, 3, 32), "cpu": (3, 3, (2, 4, 8), 64, 3, 64)}
SIZES |= {
    "gpu": (100, 3, (2, 4, 8), 256, 8, 128),
    "full": (300, 3, (2, 4, 8), 512, 8, 256),
}


def described(model: MlpMixer) -> dict[str, list[float]]:
    """By block: the share of low-frequency units, and the mean cosine to the closest
    inverse; then the embedding's.
    """
    shares = []
    cosines = []
    for block in model.blocks:
        units = block.mlp_tokens.fc1.weight.detach().double()
        frequencies = mean_frequency(units.unflatten(1, model.config.grid).numpy())
        rows = torch.nn.functional.normalize(units)
        shares.append(float((frequencies < 0.25).mean()))
        cosines.append(float((rows @ rows.T).min(dim=1).values.mean()))
    filters = model.stem.proj.weight.detach().double().mean(dim=1).numpy()
    return {
        "low": shares,
        "inverse": cosines,
        "filters": [float(np.median(mean_frequency(filters)))],
    }


def trained(
    choice: argparse.Namespace, patch: int, seed: int, run: Path
) -> dict[str, Any]:
    epochs, _, _, width, blocks, units = SIZES[choice.budget]
    known = choice.data.partition(":")[0]
    settings = [
        *(
            f"data.source={json.dumps(choice.data)}",
            "data.workers=0",
            f"model.patch_size={patch}",
        ),
        *(
            f"model.hidden_dim={width}",
            f"model.channels_mlp_dim={4 * width}",
            f"model.num_blocks={blocks}",
        ),
        *(
            f"model.tokens_mlp_dim={units}",
            f"train.epochs={epochs}",
            f"train.eval_every_epochs={epochs}",
        ),
        *(
            f"train.seed={seed}",
            f"train.threads={choice.threads}",
            f"train.device={choice.device}",
        ),
        *("train.precision=bf16", "schedule.warmup_share=0.05"),
    ]
    train(
        override(get_recipe(known if known in RECIPES else "cifar10"), settings),
        run,
        overwrite=True,
    )
    network = load(run / "last.safetensors").model
    fresh = described(MlpMixer(network.config))
    now = described(network)
    return {
        "patch": patch,
        **{f"{key} at first": value for key, value in fresh.items()},
        **now,
    }


def pictures(checkpoint: str, folder: Path, mark: str) -> None:
    for name, pixels in weight_figures(load(checkpoint).model).items():
        (folder / f"{name}{mark}.png").write_bytes(to_png(pixels))


def main() -> None:
    choice = common.arguments(__doc__, more=["--checkpoint"])
    results = common.Results(choice, __file__)
    if choice.checkpoint:
        pictures(choice.checkpoint, results.folder, "")
        print(json.dumps(described(load(choice.checkpoint).model)))
        return
    _, seeds, patches, *_ = SIZES[choice.budget]
    for seed in range(seeds):
        for patch in patches:
            run = results.folder / "runs" / f"{patch}-{seed}"
            measure = partial(trained, choice, patch, seed, run)
            results.get(f"patch {patch} seed {seed}", measure)
            if seed == 0 and (run / "last.safetensors").exists():
                pictures(
                    str(run / "last.safetensors"), results.folder, f"_patch{patch}"
                )
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def rows_of(results: common.Results, budget: str) -> dict[int, list[dict[str, Any]]]:
    """The rows of all seeds, by the side of the patches."""
    return {
        patch: list(results.seeds(f"patch {patch}").values())
        for patch in SIZES[budget][2]
    }


def drawn(results: common.Results, budget: str) -> None:
    rows = rows_of(results, budget)
    path = results.folder / "low_frequency_units.svg"
    with common.picture(path, len(rows), width=2.8, height=2.8) as axes:
        for panel, (patch, found) in zip(axes, rows.items(), strict=True):
            for key, colour in (
                ("low", common.COLOURS["Mixer"]),
                ("low at first", common.COLOURS["other"]),
            ):
                shares = 100 * np.array([row[key] for row in found])
                blocks = range(1, 1 + shares.shape[1])
                panel.errorbar(
                    blocks, shares.mean(0), shares.std(0), marker="o", color=colour
                )
            panel.set(
                title=f"Patches of {patch} pixels",
                xlabel="block",
                ylim=(-2, 102),
                xticks=blocks,
            )
        axes[0].set_ylabel("low-frequency units, %")
        axes[0].legend(["trained", "at first"])


def told(results: common.Results, budget: str) -> str:
    """Trained networks beside fresh ones: by block, and of the filters."""
    rows = rows_of(results, budget)
    columns = {"low": 100, "inverse": 1}
    lines = []
    differences = {key: [] for key in columns}
    for patch, found in rows.items():
        for block in range(len(found[0]["low"])):
            line: list[object] = [patch, block + 1]
            for key, scale in columns.items():
                before, now = (
                    {s: scale * row[k][block] for s, row in enumerate(found)}
                    for k in (f"{key} at first", key)
                )
                text = "{:.2f}" if scale == 1 else "{:.0f}"
                line += [common.spread(v.values(), text, 1) for v in (before, now)]
                differences[key].append(common.welch(now, before))
            lines.append(line)
    # One family for the stars: all differences of the table.
    marks = iter(common.stars([*differences["low"], *differences["inverse"]]))
    for key, decimals, place in (("low", 0, 4), ("inverse", 2, 7)):
        for line, one in zip(lines, differences[key], strict=True):
            line.insert(place, one.told(decimals, 1) + next(marks))
    heads = [
        "patch",
        "block",
        "low at first, %",
        "low now, %",
        "difference",
        "closest inverse at first",
        "now",
        "difference",
    ]
    n = len(next(iter(rows.values())))
    machine = next(iter(results.rows.values()))["machine"]
    return (
        f"{common.table(heads, lines)}\n\n{filters_told(rows)}\n"
        "Mean ± standard deviation; differences from fresh networks, whose weights are "
        f"other draws, with 95 % intervals (Welch). {common.STARS} n = {n} seeds. {machine}."
    )


def filters_told(rows: dict[int, list[dict[str, Any]]]) -> str:
    text = ""
    for patch, found in rows.items():
        before, now = (
            {seed: row[key][0] for seed, row in enumerate(found)}
            for key in ("filters at first", "filters")
        )
        first, last = (common.spread(v.values(), "{:.3f}", 1) for v in (before, now))
        change = common.welch(now, before).told(3, 1)
        text += (
            f"- Filters of {patch} x {patch} pixels: median frequency {first} at first, "
            f"{last} trained: {change}\n"
        )
    return text


if __name__ == "__main__":
    main()
