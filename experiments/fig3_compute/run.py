"""Fig. 2 (left) and Fig. 3 of the paper: top-1 against training compute, throughput and
size, with the Pareto front.

    python experiments/fig3_compute/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

Small, medium and large Mixer, ViT and ResNet, trained for few and for more steps on all
images. Then the same on a small part of them for many epochs: the paper's ImageNet rows
have L/16 below B/16; does the bigger network lose here? The learning rate of each
network and size is picked on a tenth of the training images, held out from a short run;
the grid goes on until it brackets the best.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
import draw

PLANS = {
    "smoke": draw.Plan(
        common.Recipe(steps=4, batch=32), 4, competitors.LEAST, (2, 4), 1, 0.1, (2e-3,)
    ),
    "cpu": draw.Plan(common.Recipe(steps=300), 4, competitors.LITTLE, (150, 450), 2),
    "gpu": draw.Plan(
        common.Recipe(steps=1500, batch=256), 8, competitors.MEDIUM, (500, 2000), 2
    ),
    "full": draw.Plan(
        common.Recipe(steps=10000, batch=512),
        8,
        competitors.MEDIUM,
        (2000, 8000, 32000),
        3,
        0.1,
    ),
}


def costs(data: common.Data, plan: draw.Plan, device: str) -> dict[str, Any]:
    """Parameters, MMACs and images per second (see competitors) of each network."""
    sizes = [(name, size) for name in plan.networks for size in "SML"]
    models = {
        f"{n} {s}": competitors.build(n, data, 0, grid=plan.grid, **plan.networks[n][s])
        for n, s in sizes
    }
    channels, side = data.images.shape[1:3]
    speed = competitors.images_per_second(
        models, torch.randn(256, channels, side, side, device=device)
    )
    counts = {
        name: sum(p.numel() for p in model.parameters())
        for name, model in models.items()
    }
    mmacs = {
        name: competitors.mmacs(model, side, channels) for name, model in models.items()
    }
    return {
        "costs": {
            name: {"params": counts[name], "mmacs": mmacs[name], "speed": speed[name]}
            for name in models
        }
    }


def main() -> None:
    choice = common.arguments(__doc__)
    plan = PLANS[choice.budget]
    results = common.Results(choice, __file__)
    data = common.load_data(choice.data)
    results.get("costs", partial(costs, data, plan, choice.device))
    chosen_by = data.split()
    rate = {}

    def run(
        label: str, on: common.Data, name: str, size: str, seed: int, **changed: Any
    ) -> float:
        recipe = replace(plan.recipe, **{"lr": rate.get((name, size)), **changed})

        def measure() -> dict[str, Any]:
            model = competitors.build(
                name, on, seed, grid=plan.grid, **plan.networks[name][size]
            )
            result = common.fit(model, on, recipe, seed, device=choice.device)
            return result | {
                "steps": recipe.steps,
                "lr": recipe.lr,
                "images": len(on.labels),
            }

        settings = {} if label.startswith("pick") else {"lr": recipe.lr}
        row = results.get(f"{label} seed {seed}", measure, **settings)
        return float(row["top1"])

    for name in plan.networks:
        for size in "SML":
            short = partial(
                run, on=chosen_by, name=name, size=size, seed=0, steps=plan.steps[0]
            )

            def accuracy(lr: float, label: str, short: Any = short) -> float:
                return short(f"{label} {lr:g}", lr=lr)

            pick = partial(accuracy, label=f"pick {name} {size}")
            rate[name, size] = common.bracketed(plan.rates, pick)
    for seed in range(plan.seeds + 1):
        part = data.part(plan.part, seed)
        for name, size in rate:
            for steps in plan.steps if seed < plan.seeds else ():
                run(f"all {name} {size} {steps}", data, name, size, seed, steps=steps)
            if name != "ResNet":
                run(f"part {name} {size}", part, name, size, seed)
            if name == "Mixer":
                run(
                    f"part Mixer, no augmentation {size}",
                    part,
                    name,
                    size,
                    seed,
                    shift=0.0,
                    mirror=False,
                )
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def told(results: common.Results, budget: str) -> str:
    plan = PLANS[budget]
    parts = [
        draw.compute_table(results, plan),
        draw.rivals_table(results, plan),
        draw.small_table(results, plan),
    ]
    return "\n\n".join(parts)


def drawn(results: common.Results, budget: str) -> None:
    draw.compute(results, PLANS[budget])
    draw.small_data(results)


if __name__ == "__main__":
    main()
