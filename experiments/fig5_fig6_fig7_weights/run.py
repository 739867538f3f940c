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
    rows: dict[int, list[dict[str, Any]]] = {
        patch: [] for patch in SIZES[choice.budget][2]
    }
    for seed in range(SIZES[choice.budget][1]):
        for patch in rows:
            run = results.folder / "runs" / f"{patch}-{seed}"
            rows[patch].append(
                results.get(
                    f"patch {patch} seed {seed}",
                    partial(trained, choice, patch, seed, run),
                )
            )
            if seed == 0 and (run / "last.safetensors").exists():
                pictures(
                    str(run / "last.safetensors"), results.folder, f"_patch{patch}"
                )
    draw(rows, results.folder / "low_frequency_units.svg")
    common.write_up(choice, __file__, told(rows))


def draw(rows: dict[int, list[dict[str, Any]]], path: Path) -> None:
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


def told(rows: dict[int, list[dict[str, Any]]]) -> str:
    columns = {"low at first": 100, "low": 100, "inverse at first": 1, "inverse": 1}
    lines = []
    text = ""
    for patch, found in rows.items():
        for block in range(len(found[0]["low"])):
            by_key = [
                ([row[key][block] for row in found], k) for key, k in columns.items()
            ]
            cells = [
                common.spread(values, "{:.2f}" if k == 1 else "{:.0f}", k)
                for values, k in by_key
            ]
            lines.append([patch, block + 1, *cells])
        first, now = (
            common.spread([r[k][0] for r in found], "{:.3f}", 1)
            for k in ("filters at first", "filters")
        )
        text += f"- Filters of {patch} x {patch} pixels: median frequency {first} at first, {now} trained\n"
    heads = [
        "patch",
        "block",
        "low at first, %",
        "low now, %",
        "closest inverse at first",
        "now",
    ]
    return f"{common.table(heads, lines)}\n\n{text}\nOver {len(found)} seeds. {found[0]['machine']}."


if __name__ == "__main__":
    main()
