"""One change at a time to a small Mixer: Appendix A.1's token mixing, widths, GELU,
stochastic depth, optimisers, SAM.

    python experiments/ablations/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

The baseline keeps the paper's proportions (D_S = C/2, D_C = 4C) and is trained by the
recipe of all experiments. The learning rate of each optimiser is picked on a tenth of
the training images that its own run, of one seed, never saw; the grid goes on until it
brackets the best.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
from changes import RATES, Rates, changes, sized

from mlp_mixer import create_model
from mlp_mixer.training.config import OptimChoice
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.optim.sam import sharpness_gradients


class Plan(NamedTuple):
    recipe: common.Recipe
    grid: int  # patches on a side
    width: int
    depth: int
    seeds: int  # of the baseline, twice as many
    halved: int  # seeds at half the learning rate: does a difference depend on it?


PLANS = {
    "smoke": Plan(common.Recipe(steps=4, batch=32), 4, 16, 4, 2, 1),
    "cpu": Plan(common.Recipe(steps=300), 4, 64, 4, 3, 2),
    "gpu": Plan(common.Recipe(steps=3000, batch=256), 8, 128, 8, 3, 2),
    "full": Plan(common.Recipe(steps=40000, batch=512), 8, 256, 8, 5, 2),
}


def measured(
    data: common.Data, plan: Plan, seed: int, device: str, rates: Rates, **changed: Any
) -> dict[str, Any]:
    """changed: fields of the network, and `optimizer`, `rho` (of SAM) and `longer` (a
    factor of the steps).
    """
    name = changed.pop("optimizer", "AdamW")
    rho = changed.pop("rho", 0.0)
    longer = changed.pop("longer", 1)
    channels, side = data.images.shape[1:3]
    torch.manual_seed(seed)
    fields = {
        "name": "mixer_s32",
        "patch_size": side // plan.grid,
        "gelu": "erf",
        **sized(plan.width),
    }
    fields |= {
        "num_blocks": plan.depth,
        "image_size": side,
        "in_channels": channels,
        "num_classes": len(data.classes),
    }
    model = create_model(**fields | changed)
    decay = (
        5e-4 if name == "SGD" else plan.recipe.weight_decay
    )  # SGD adds it to the gradient
    choice = OptimChoice(name=name.lower(), lr=rates[name], weight_decay=decay)

    def sharpness_aware(loss_of: Callable[[], Tensor]) -> Tensor:
        return sharpness_gradients(model, lambda _: loss_of(), [None], rho=rho)

    cost = {
        "params": sum(p.numel() for p in model.parameters()),
        "mmacs": competitors.mmacs(model, side, channels),
    }
    recipe = replace(plan.recipe, steps=longer * plan.recipe.steps)
    gradients = sharpness_aware if rho else common.backward
    optimizer = partial(build_optimizer, choice=choice)
    result = common.fit(
        model,
        data,
        recipe,
        seed,
        device=device,
        optimizer=optimizer,
        gradients=gradients,
    )
    return result | cost | {"lr": choice.lr}


def main() -> None:
    choice = common.arguments(__doc__)
    plan = PLANS[choice.budget]
    results = common.Results(choice, __file__)
    data = common.load_data(choice.data)
    chosen = {
        name: rate_of(results, data.split(), plan, name, choice) for name in RATES
    }
    kinds = changes(plan.width, plan.depth, plan.grid**2)
    for seed in range(2 * plan.seeds):
        for name, (_, fields) in {"baseline": ("-", {}), **kinds}.items():
            if name != "baseline" and seed >= plan.seeds:
                continue
            run = partial(measured, data, plan, seed, choice.device, chosen, **fields)
            lr = chosen[fields.get("optimizer", "AdamW")]
            results.get(f"{name} seed {seed}", run, lr=lr)
    half = chosen["AdamW"] / 2
    for seed in range(plan.halved):
        slow = {**chosen, "AdamW": half}
        for name, fields in at_half_rate(plan).items():
            run = partial(measured, data, plan, seed, choice.device, slow, **fields)
            results.get(f"half the rate, {name} seed {seed}", run, lr=half)
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def rate_of(
    results: common.Results, part: common.Data, plan: Plan, name: str, choice: Any
) -> float:
    """The best learning rate of an optimiser, by images held out from it."""

    def accuracy(lr: float) -> float:
        run = partial(
            measured, part, plan, 0, choice.device, {name: lr}, optimizer=name
        )
        return float(results.get(f"pick {name} lr {lr:g}", run)["top1"])

    rates = RATES[name]
    if choice.budget == "smoke":
        rates = rates[1:2]
    return common.bracketed(rates, accuracy)


def at_half_rate(plan: Plan) -> dict[str, dict[str, Any]]:
    """The baseline and what AdamW trains, by its fields."""
    kinds = changes(plan.width, plan.depth, plan.grid**2).items()
    return {"baseline": {}} | {
        name: fields for name, (_, fields) in kinds if "optimizer" not in fields
    }


def kinds_of(plan: Plan) -> dict[str, tuple[str, dict[str, Any]]]:
    """The baseline and what is changed: the group and the fields."""
    return {"baseline": ("-", {})} | changes(plan.width, plan.depth, plan.grid**2)


def differences(results: common.Results, plan: Plan) -> dict[str, common.Difference]:
    """Each change minus the baseline, which has more seeds, by Welch."""
    baseline = results.by_seed("baseline")
    return {
        name: common.welch(results.by_seed(name), baseline)
        for name in kinds_of(plan)
        if name != "baseline"
    }


def told(results: common.Results, budget: str) -> str:
    """Differences from the baseline, their errors by Welch and, beside, by seed."""
    plan = PLANS[budget]
    found = differences(results, plan)
    marks = dict(zip(found, common.stars(list(found.values())), strict=True))
    baseline = results.by_seed("baseline")
    half = results.by_seed("half the rate, baseline")
    lines = []
    for name, (group, fields) in kinds_of(plan).items():
        row = results.rows[f"{name} seed 0"]
        tops = results.by_seed(name)
        line = [
            group,
            name,
            f"{row['params'] / 1000:.0f}k",
            f"{row['mmacs']:.2f}",
            rate_told(results, row["lr"], fields),
            common.spread(tops.values()),
        ]
        if name == "baseline":
            line += ["-"] * 4
        else:
            welch = found[name]
            slow = results.by_seed(f"half the rate, {name}")
            line += [
                welch.told() + marks[name],
                f"{welch.t:.1f} ({welch.freedom:.1f})",
                common.paired(tops, baseline).told(),
                half_told(slow, half),
            ]
        lines.append(line)
    heads = [
        "group",
        "change",
        "params",
        "MMACs",
        "lr",
        "top-1, %",
        "difference",
        "t (df)",
        "by seed",
        "at half the rate",
    ]
    return f"{about(results)}\n\n{common.table(heads, lines)}"


def rate_told(results: common.Results, lr: float, fields: dict[str, Any]) -> str:
    tried = results.tried(f"pick {fields.get('optimizer', 'AdamW')} lr ")
    return common.rate_cell(lr, tried)


def half_told(slow: common.BySeed, baseline: common.BySeed) -> str:
    """Too few seeds for an interval that says anything: the mean alone."""
    if not slow:
        return "-"
    return f"{100 * common.paired(slow, baseline).mean:+.1f}"


def about(results: common.Results) -> str:
    baseline = results.by_seed("baseline")
    first = results.by_seed("GELU by tanh")
    half = results.by_seed("half the rate, baseline")
    machine = results.rows["baseline seed 0"]["machine"]
    return (
        f"n = {len(first)} (baseline {len(baseline)}), top-1 in %, mean ± standard "
        "deviation. *difference*: of the means, in points, with its 95 % interval, t and "
        "degrees of freedom by Welch, since the deviations of the rows differ and a "
        "changed network begins with other weights. *by seed*: the same from the "
        f"baseline's runs of the same seeds. {common.STARS} {common.ENDS} At half the "
        f"rate (n = {len(half)}, seed by seed, without interval) the baseline has "
        f"{common.spread(half.values())} %. {machine}."
    )


def drawn(results: common.Results, budget: str) -> None:
    found = differences(results, PLANS[budget])
    names = list(found)[::-1]  # the first at the top
    with common.picture(results.folder / "ablations.svg", width=6, height=5.4) as ax:
        common.draw_differences(ax, [found[name] for name in names])
        ax.set(xlabel="top-1 minus the baseline's, points (bars: 95 % intervals)")
        ax.set_yticks(range(len(names)), names)


if __name__ == "__main__":
    main()
