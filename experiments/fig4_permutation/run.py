"""Fig. 4 of the paper: training on images whose patches and pixels, or all of whose
pixels, are shuffled alike.

    python experiments/fig4_permutation/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

"patches": the patches change places, and in each of them the pixels, both as one
    permutation for all images says.
"global": one permutation of all pixels. Both come after the augmentation, with which
    they do not commute.
The exact form of the claim for the Mixer: if the initial weights are permuted too, all
    losses of a run stay.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
from shuffle import permute, shuffled, shuffles


class Plan(NamedTuple):
    recipe: common.Recipe
    grid: int  # patches on a side
    networks: competitors.Sizes  # of which M
    seeds: int
    exact_steps: int = 100


PLANS = {
    "smoke": Plan(common.Recipe(steps=12, batch=32), 4, competitors.LEAST, 2, 10),
    "cpu": Plan(common.Recipe(steps=400, lr=4e-3), 4, competitors.LITTLE, 3),
    "gpu": Plan(common.Recipe(steps=5000, batch=256), 8, competitors.MEDIUM, 3),
    "full": Plan(common.Recipe(steps=40000, batch=512), 8, competitors.MEDIUM, 5),
}
PIPELINES = {"original": "-", "patches": "--", "global": ":"}
EXACT = (
    ("float32", "patches", True),
    ("float64", "patches", True),
    ("float64", "patches", False),
)


def exact(
    data: common.Data, plan: Plan, dtype: torch.dtype, pipeline: str, weights_too: bool
) -> dict[str, Any]:
    """How far the losses of a run on shuffled images are from those of the plain run,
    step by step.
    """
    every, patches, pixels = shuffles(data.images.shape[-1], plan.grid)
    losses: dict[str, list[float]] = {"original": [], pipeline: []}
    for which, mine in losses.items():
        model = competitors.build(
            "Mixer", data, 0, grid=plan.grid, **plan.networks["Mixer"]["M"]
        ).to(dtype)
        if weights_too and which == pipeline:
            permute(model, patches, pixels)

        def noted(loss_of: Callable[[], Tensor], mine: list[float] = mine) -> Tensor:
            mine.append(float(loss := common.backward(loss_of)))
            return loss

        change = partial(shuffled, index=every[which], dtype=dtype)
        common.fit(
            model,
            data,
            common.Recipe(steps=plan.exact_steps, batch=64),
            0,
            gradients=noted,
            change=change,
        )
    plain = losses["original"]
    apart = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
    return {
        "steps": plan.exact_steps,
        "first_loss": plain[0],
        "last_loss": plain[-1],
        "largest": apart,
    }


def trained(
    data: common.Data, plan: Plan, name: str, way: str, seed: int, device: str
) -> dict[str, Any]:
    model = competitors.build(
        name, data, seed, grid=plan.grid, **plan.networks[name]["M"]
    )
    change = partial(shuffled, index=shuffles(data.images.shape[-1], plan.grid)[0][way])
    looks = [plan.recipe.steps * part // 8 for part in (1, 2, 4, 6)]
    return common.fit(
        model, data, plan.recipe, seed, change=change, curve_at=looks, device=device
    )


def main() -> None:
    choice = common.arguments(__doc__)
    plan = PLANS[choice.budget]
    results = common.Results(choice, __file__)
    data = common.load_data(choice.data)
    for dtype, pipeline, weights_too in EXACT:
        name = f"exact {dtype} {pipeline} {'permuted' if weights_too else 'plain'}"
        small = data._replace(
            test_images=data.test_images[:500], test_labels=data.test_labels[:500]
        )
        results.get(
            name,
            partial(exact, small, plan, getattr(torch, dtype), pipeline, weights_too),
        )
    for seed in range(plan.seeds):
        for name in plan.networks:
            for way in PIPELINES:
                results.get(
                    f"{name} {way} seed {seed}",
                    partial(trained, data, plan, name, way, seed, choice.device),
                )
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def drawn(results: common.Results, budget: str) -> None:
    plan = PLANS[budget]
    with common.picture(
        results.folder / "permutation.svg", len(plan.networks), width=3.2
    ) as axes:
        for ax, name in zip(axes, plan.networks, strict=True):
            ends = {
                way: results.of_seeds(f"{name} {way}", plan.seeds) for way in PIPELINES
            }
            for way, style in PIPELINES.items():
                curves = results.of_seeds(f"{name} {way}", plan.seeds, "curve")
                steps = [step for step, _ in curves[0]] + [plan.recipe.steps]
                tops = [
                    *(
                        [top for _, top in points]
                        for points in zip(*curves, strict=True)
                    ),
                    ends[way],
                ]
                heights = [100 * statistics.mean(at_step) for at_step in tops]
                ax.plot(
                    steps,
                    heights,
                    style,
                    marker="o",
                    label=way,
                    color=common.COLOURS[name],
                )
            ax.set(title=name, xlabel="steps", ylabel="top-1, %", ylim=(0, None))
            ax.legend()


def told(results: common.Results, _: str) -> str:
    """What is lost on shuffled images, and the exact form."""
    networks = competitors.NETWORKS
    shuffles_ = tuple(PIPELINES)[1:]
    ends = {
        name: {way: results.by_seed(f"{name} {way}") for way in PIPELINES}
        for name in networks
    }
    losses = [
        common.paired(ends[name][way], ends[name]["original"])
        for name in networks
        for way in shuffles_
    ]
    shown = common.starred(losses)
    lines = []
    for place, (name, tops) in enumerate(ends.items()):
        plain = statistics.mean(tops["original"].values())
        shares = [
            f"{100 - 100 * statistics.mean(tops[way].values()) / plain:.1f} %"
            for way in shuffles_
        ]
        means = [common.spread(values.values()) for values in tops.values()]
        lines.append([name, *means, *shown[2 * place : 2 * place + 2], *shares])
    heads = [
        "network",
        *PIPELINES,
        *(f"{way} minus original" for way in shuffles_),
        *(f"{way} loses" for way in shuffles_),
    ]
    n = len(ends["Mixer"]["original"])
    text = [
        f"n = {n}, top-1 in %, mean ± standard deviation; differences in points, seed "
        "by seed (the same weights and images), with 95 % intervals; and what is lost "
        f"relative to `original`. {common.STARS}",
        common.table(heads, lines),
        exact_table(results),
    ]
    return "\n\n".join(text)


def exact_table(results: common.Results) -> str:
    lines = [
        [
            *name.split()[1:],
            row["steps"],
            f"{row['first_loss']:.3f} to {row['last_loss']:.3f}",
            f"{row['largest']:.1e}",
        ]
        for name, row in results.rows.items()
        if name.startswith("exact")
    ]
    heads = [
        "precision",
        "images",
        "initial weights",
        "steps",
        "loss",
        "losses differ by",
    ]
    return common.table(heads, lines)


if __name__ == "__main__":
    main()
