"""Top-1 against the number of training images, as in the paper's Fig. 2 (right): does a
Mixer gain faster with data?

    python experiments/fig2_data_scale/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

Mixer, ViT and ResNet of equal cost, for equal numbers of steps whatever the number of
images (the paper's 233 epochs of 3 % ... 7 epochs of 100 %); a seed draws the images
too. Run once for each data set; the tables hold all that are there. First, one seed on
nine tenths of the training images picks each network's learning rate by the last tenth;
the grid goes on until it brackets the best, and rows of another rate are measured again.
"""

from __future__ import annotations

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

OTHERS = ("ViT", "ResNet")


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
        common.Recipe(steps=10, batch=32), 4, competitors.LEAST, 2, (0.1, 1.0), (2e-3,)
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


def main() -> None:
    choice = common.arguments(__doc__)
    plan = PLANS[choice.budget]
    results = common.Results(choice, __file__)
    kind = choice.data.partition(":")[0]
    data = common.load_data(choice.data)
    if kind in plan.halved:
        plan = plan._replace(recipe=replace(plan.recipe, steps=plan.recipe.steps // 2))
    best = {
        name: rate_of(results, kind, name, data.split(), plan, choice.device)
        for name in plan.networks
    }
    for seed in range(plan.seeds):
        for fraction in plan.fractions:
            part = data.part(fraction, seed)
            for name, lr in best.items():
                label = f"{kind} {name} {fraction:g} seed {seed}"
                run = partial(measured, part, name, plan, seed, lr, choice.device)
                results.get(label, run, lr=lr)
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def rate_of(
    results: common.Results,
    kind: str,
    name: str,
    part: common.Data,
    plan: Plan,
    device: str,
) -> float:
    """The learning rate that is best for a network, by images held out from it."""

    def accuracy(lr: float) -> float:
        run = partial(measured, part, name, plan, 0, lr, device)
        return float(results.get(f"{kind} {name} lr {lr:g}", run)["top1"])

    return common.bracketed(plan.rates, accuracy)


Curves = dict[str, dict[int, list[dict[str, Any]]]]
"""By network and seed: the rows of all parts."""


def curves_of(results: common.Results, budget: str) -> dict[str, Curves]:
    """By data set, of those whose rows are complete and of one rate each."""
    plan = PLANS[budget]
    found: dict[str, Curves] = {}
    for kind in sorted({name.split()[0] for name in results.rows}):
        curves: Curves = {}
        for name in plan.networks:
            labels = [f"{kind} {name} {fraction:g}" for fraction in plan.fractions]
            parts = [results.seeds(label) for label in labels]
            seeds = set(parts[0]).intersection(*parts[1:])
            curves[name] = {s: [part[s] for part in parts] for s in sorted(seeds)}
        if all(complete(curve, plan.seeds) for curve in curves.values()):
            found[kind] = curves
    return found


def complete(curve: dict[int, list[dict[str, Any]]], seeds: int) -> bool:
    """Whether all seeds are there, and none is of a rate that another has replaced."""
    rates = {row["lr"] for rows in curve.values() for row in rows}
    return len(curve) >= seeds and len(rates) == 1


def drawn(results: common.Results, budget: str) -> None:
    found = curves_of(results, budget)
    path = results.folder / "data_scale.svg"
    with common.picture(path, len(found), width=3.8) as axes:
        for ax, (kind, curves) in zip(np.atleast_1d(axes), found.items(), strict=True):
            for name, curve in curves.items():
                columns = list(zip(*curve.values(), strict=True))
                middles, errors = common.per_cent(
                    [[row["top1"] for row in column] for column in columns]
                )
                ax.errorbar(
                    [column[0]["images"] for column in columns],
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
            if kind == next(iter(found)):
                ax.legend()


def slopes_of(curves: Curves, fractions: Sequence[float], last: int) -> Any:
    """By network and seed: points of top-1 per tenfold, over the last so many parts."""
    return {
        name: {
            seed: slope(fractions[-last:], [row["top1"] for row in rows[-last:]])
            for seed, rows in curve.items()
        }
        for name, curve in curves.items()
    }


def told(results: common.Results, budget: str) -> str:
    """For each data set a table, and what the Mixer gains beside the others."""
    fractions = PLANS[budget].fractions
    shares = [f"{100 * fraction:g} %" for fraction in fractions]
    text = []
    for kind, curves in curves_of(results, budget).items():
        slopes = slopes_of(curves, fractions, len(fractions))
        tails = slopes_of(curves, fractions, 2)
        lines = []
        for name, curve in curves.items():
            first = next(iter(curve.values()))[0]
            columns = zip(*curve.values(), strict=True)
            tried = results.tried(f"{kind} {name} lr ")
            line = [
                name,
                f"{first['mmacs']:.2f}",
                common.rate_cell(first["lr"], tried),
                *(common.spread([row["top1"] for row in rows]) for rows in columns),
                common.spread(slopes[name].values(), scale=1.0),
                common.spread(tails[name].values(), scale=1.0),
            ]
            lines.append(line)
        heads = [
            "network",
            "MMACs",
            "lr",
            *shares,
            "points per tenfold",
            "the same from the last two",
        ]
        n = len(curves["Mixer"])
        text += [
            f"{kind}, n = {n}, top-1 in %, mean ± standard deviation. {common.ENDS}",
            common.table(heads, lines),
            gains_told(slopes, tails),
        ]
    return "\n\n".join(text)


def gains_told(slopes: Any, tails: Any) -> str:
    """The Mixer's gain per tenfold minus another's, seed by seed."""
    pairs = [(other, values) for other in OTHERS for values in (slopes, tails)]
    found = [common.paired(values["Mixer"], values[one]) for one, values in pairs]
    marks = common.stars(found)
    cells = [one.told(scale=1) + mark for one, mark in zip(found, marks, strict=True)]
    lines = [
        [f"Mixer minus {other}", *cells[2 * place : 2 * place + 2]]
        for place, other in enumerate(OTHERS)
    ]
    heads = ["gain", "points per tenfold", "the same from the last two"]
    return (
        f"{common.table(heads, lines)}\n\nSeed by seed (a seed draws the images), with "
        f"95 % intervals. {common.STARS}"
    )


if __name__ == "__main__":
    main()
