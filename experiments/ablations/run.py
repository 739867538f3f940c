"""One change at a time to a small Mixer: Appendix A.1's token mixing, widths, GELU,
stochastic depth, optimisers, SAM.

    python experiments/ablations/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

The baseline keeps the paper's proportions (D_S = C/2, D_C = 4C) and is trained by the
recipe of all experiments. The learning rate of each optimiser is picked on a tenth of
the training images that its own run, of one seed, never saw.
"""

from __future__ import annotations

import math
import statistics
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
    chosen = {}
    pick = partial(measured, data.split(), plan, 0, choice.device)
    for name, rates in RATES.items():
        tried = {}
        for lr in rates if choice.budget != "smoke" else rates[1:2]:
            tried[lr] = results.get(
                f"pick {name} lr {lr:g}", partial(pick, {name: lr}, optimizer=name)
            )["top1"]
        chosen[name] = max(tried, key=lambda lr: tried[lr])
    for seed in range(2 * plan.seeds):
        run = partial(measured, data, plan, seed, choice.device, chosen)
        results.get(f"baseline seed {seed}", run)
        for name, (_, fields) in (
            changes(plan.width, plan.depth, plan.grid**2).items()
            if seed < plan.seeds
            else ()
        ):
            results.get(f"{name} seed {seed}", partial(run, **fields))
    for seed in range(plan.halved):
        run = partial(
            measured,
            data,
            plan,
            seed,
            choice.device,
            {**chosen, "AdamW": chosen["AdamW"] / 2},
        )
        for name, fields in at_half_rate(plan).items():
            results.get(f"half the rate, {name} seed {seed}", partial(run, **fields))
    report(choice, plan, results)


def at_half_rate(plan: Plan) -> dict[str, dict[str, Any]]:
    """The baseline and what AdamW trains, by its fields."""
    kinds = changes(plan.width, plan.depth, plan.grid**2).items()
    return {"baseline": {}} | {
        name: fields for name, (_, fields) in kinds if "optimizer" not in fields
    }


def report(choice: Any, plan: Plan, results: common.Results) -> None:
    """Differences from the baseline; their error is of the standard deviation that all
    rows share.
    """
    kinds = {"baseline": ("-", {})} | changes(plan.width, plan.depth, plan.grid**2)
    tops = {
        name: [100 * top for top in results.of_seeds(name, plan.seeds)]
        for name in kinds
    }
    tops["baseline"] = [
        100 * top for top in results.of_seeds("baseline", 2 * plan.seeds)
    ]
    freedom = sum(len(values) - 1 for values in tops.values())
    shared = math.sqrt(
        sum(statistics.variance(v) * (len(v) - 1) for v in tops.values()) / freedom
    )
    error = shared * math.sqrt(1 / plan.seeds + 1 / (2 * plan.seeds))
    gains = {
        name: statistics.mean(values) - statistics.mean(tops["baseline"])
        for name, values in tops.items()
    }
    halves = {
        name: 100
        * statistics.mean(results.of_seeds(f"half the rate, {name}", plan.halved))
        for name in at_half_rate(plan)
    }
    lines = []
    for name, (group, _) in kinds.items():
        row = results.rows[f"{name} seed 0"]
        mark = " *" if abs(gains[name]) > 3 * error else ""
        size = [f"{row['params'] / 1000:.0f}k", f"{row['mmacs']:.2f}", f"{row['lr']:g}"]
        gain = [
            f"{gains[name]:+.1f}{mark}",
            f"{halves[name] - halves['baseline']:+.1f}" if name in halves else "-",
        ]
        lines.append([group, name, *size, common.spread(tops[name], scale=1.0), *gain])
    with common.picture(results.folder / "ablations.svg", width=6, height=5.4) as ax:
        names = list(gains)[:0:-1]  # all but the baseline, the first at the top
        look = {"fmt": "o", "capsize": 2, "color": common.COLOURS["Mixer"]}
        ax.errorbar(
            [gains[name] for name in names], range(len(names)), xerr=3 * error, **look
        )
        ax.axvline(0, color=common.COLOURS["other"], linewidth=1)
        ax.set(xlabel="top-1 minus the baseline's, points (bars: 3 standard errors)")
        ax.set_yticks(range(len(names)), names)
    text = f"n = {plan.seeds} (baseline {2 * plan.seeds}), mean ± standard deviation. A difference has a "
    text += "standard error "
    text += f"of {error:.2f} points, from the standard deviation of all rows together, {shared:.2f}; *: beyond 3.\n"
    half = f"{halves['baseline']:.1f} %"
    text += f"At half the rate (n = {plan.halved}) the baseline has {half}, and the last column is against that."
    heads = [
        "group",
        "change",
        "params",
        "MMACs",
        "lr",
        "top-1, %",
        "difference",
        "at half the rate",
    ]
    common.write_up(choice, __file__, f"{text}\n\n{common.table(heads, lines)}")


if __name__ == "__main__":
    main()
