"""Top-1 against the number of training images, as in the paper's Fig. 2 (right): does a
Mixer gain faster with data?

    python experiments/fig2_data_scale/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

Mixer, ViT and ResNet of equal cost, for equal numbers of steps whatever the number of
images (the paper's 233 epochs of 3 % ... 7 epochs of 100 %); a seed draws the images
too. Run once for each data set; the tables hold all that are there. First, one seed on
nine tenths of the training images picks each network's learning rate by the last tenth.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors


class Plan(NamedTuple):
    recipe: common.Recipe
    grid: int  # patches on a side
    networks: competitors.Sizes  # of which M
    seeds: int
    fractions: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    rates: tuple[float, ...] = (4e-3, 8e-3, 1.6e-2)
    halved: tuple[str, ...] = ()  # data sets of half as many steps


PLANS = {
    "smoke": Plan(
        common.Recipe(steps=10, batch=32), 4, competitors.LITTLE, 2, (0.1, 1.0), (2e-3,)
    ),
    "cpu": Plan(
        common.Recipe(steps=600), 4, competitors.LITTLE, 3, halved=("fashion_mnist",)
    ),
    "gpu": Plan(common.Recipe(steps=3000, batch=256), 8, competitors.MEDIUM, 3),
    "full": Plan(common.Recipe(steps=40000, batch=512), 8, competitors.MEDIUM, 5),
}


def measured(
    data: common.Data, name: str, plan: Plan, seed: int, lr: float, device: str
) -> dict[str, Any]:
    model = competitors.build(
        name, data, seed, grid=plan.grid, **plan.networks[name]["M"]
    )
    cost = {
        "mmacs": competitors.mmacs(model, data.images.shape[-1], data.images.shape[1])
    }
    result = common.fit(model, data, replace(plan.recipe, lr=lr), seed, device=device)
    epochs = plan.recipe.steps * plan.recipe.batch / len(data.labels)
    return (
        result
        | {"images": len(data.labels), "epochs": round(epochs, 2), "lr": lr}
        | cost
    )


def slope(fractions: Sequence[float], accuracies: Sequence[float]) -> float:
    """Points of top-1 that a tenfold of images brings, by least squares."""
    return float(np.polyfit(np.log10(fractions), 100 * np.asarray(accuracies), 1)[0])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of two means, with its standard error."""
    error = math.hypot(
        *(
            statistics.stdev(values) / math.sqrt(len(values))
            for values in (ours, theirs)
        )
    )
    return f"{statistics.mean(ours) - statistics.mean(theirs):+.1f} ± {error:.1f}"


def main() -> None:
    choice = common.arguments(__doc__)
    plan = PLANS[choice.budget]
    results = common.Results(choice, __file__)
    kind = choice.data.partition(":")[0]
    data = common.load_data(choice.data)
    if kind in plan.halved:
        plan = plan._replace(recipe=replace(plan.recipe, steps=plan.recipe.steps // 2))
    best: dict[str, float] = {}
    for name in plan.networks:
        part = data.split()
        tried = {
            lr: results.get(
                f"{kind} {name} lr {lr:g}",
                partial(measured, part, name, plan, 0, lr, choice.device),
            )
            for lr in plan.rates
        }
        best[name] = max(tried, key=lambda lr: tried[lr]["top1"])
    for seed in range(plan.seeds):
        for fraction in plan.fractions:
            part = data.part(fraction, seed)
            for name, lr in best.items():
                label = f"{kind} {name} {fraction:g} seed {seed}"
                results.get(
                    label, partial(measured, part, name, plan, seed, lr, choice.device)
                )
    report(choice, plan, results)


def report(choice: Any, plan: Plan, results: common.Results) -> None:
    """A table and a panel for each data set whose rows are complete."""
    kinds = sorted(
        {
            name.split()[0]
            for name in results.rows
            if name.endswith(f"seed {plan.seeds - 1}")
        }
    )
    text = []
    seeds = range(plan.seeds)
    with common.picture(
        results.folder / "data_scale.svg", len(kinds), width=3.8
    ) as axes:
        for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
            slopes = {}
            tails = {}
            lines = []
            for name in plan.networks:
                rows = [
                    [
                        results.rows[f"{kind} {name} {f:g} seed {s}"]
                        for f in plan.fractions
                    ]
                    for s in seeds
                ]
                by_seed = [[row["top1"] for row in line] for line in rows]
                counts = [row["images"] for row in rows[0]]
                slopes[name] = [slope(plan.fractions, line) for line in by_seed]
                tails[name] = [
                    slope(plan.fractions[-2:], line[-2:]) for line in by_seed
                ]
                cells = [common.spread(column) for column in zip(*by_seed, strict=True)]
                spreads = [
                    common.spread(values[name], scale=1.0) for values in (slopes, tails)
                ]
                lines.append(
                    [
                        name,
                        f"{rows[0][0]['mmacs']:.2f}",
                        f"{rows[0][0]['lr']:g}",
                        *cells,
                        *spreads,
                    ]
                )
                middles, errors = common.per_cent(list(zip(*by_seed, strict=True)))
                ax.errorbar(
                    counts,
                    middles,
                    errors,
                    marker="o",
                    capsize=2,
                    color=common.COLOURS[name],
                    label=name,
                )
            ax.set(
                xscale="log", xlabel="training images", ylabel="top-1, %", title=kind
            )
            ax.legend() if kind == kinds[0] else None
            shares = [f"{100 * fraction:g} %" for fraction in plan.fractions]
            heads = [
                "network",
                "MMACs",
                "lr",
                *shares,
                "points per tenfold",
                "the same from the last two",
            ]
            text += [
                f"{kind}, n = {plan.seeds}, top-1 in %, mean ± standard deviation:",
                common.table(heads, lines),
            ]
            for other in ("ViT", "ResNet"):
                gain, tail = (
                    difference(values["Mixer"], values[other])
                    for values in (slopes, tails)
                )
                text.append(
                    f"Mixer minus {other}: {gain} points per tenfold, {tail} in the last (± standard error)."
                )
    common.write_up(choice, __file__, "\n\n".join(text))


if __name__ == "__main__":
    main()
