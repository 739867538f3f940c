"""Does one Mixer trained at random image sizes beat one that is brought to other sizes
after its training?

    python experiments/variable_resolution/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

The parameters are those of one grid of patches. For images of another size the token
mixing is interpolated in each forward pass, as `mlp_mixer.resize(...,
method="interpolate")` does it once, and gradients flow back through it. `fixed`:
trained at the base size alone; `random`: at one of five sizes, drawn for each step;
`own`: a network for that size alone. All see the same images, scaled, for as many
steps.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors

from mlp_mixer.training.extras.elastic import Elastic, scaled

SIZES = {
    "smoke": (6, 1, 100),
    "cpu": (400, 3, 5000),
    "gpu": (20000, 5, 10000),
    "full": (100000, 5, 10000),
}
TRAINED, UNSEEN, OWN = (
    (0.5, 0.75, 1.0, 1.25, 1.5),
    (0.625, 0.875, 1.125),
    (0.5, 0.75),
)  # times the side


def main() -> None:
    choice = common.arguments(__doc__)
    data = common.load_data(choice.data)
    results = common.Results(choice, __file__)
    steps, seeds, count = SIZES[choice.budget]
    data = data._replace(
        test_images=data.test_images[:count], test_labels=data.test_labels[:count]
    )
    base = data.images.shape[-1]
    channels = data.images.shape[1]
    patch = competitors.mixer(base, channels, 1).config.patch_size
    sides = [
        round(base * k) for k in sorted((*TRAINED, *UNSEEN)) if base * k % patch == 0
    ]

    def measure(way: str, own: int, seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        mixer = competitors.mixer(own, channels, len(data.classes), patch=patch).to(
            choice.device
        )
        network = Elastic(mixer, sides)
        draw = random.Random(seed)
        choices = [round(base * k) for k in TRAINED] if way == "random" else [own]
        row = common.fit(
            network, data, common.Recipe(steps=steps), seed, change=lambda x: scaled(x, draw.choice(choices)),
            device=choice.device
        )  # fmt: skip
        accuracy = partial(common.top1, network, data, device=choice.device)
        at = {
            str(side): accuracy(change=partial(scaled, side=side))
            for side in ([own] if way == "own" else sides)
        }
        return {"seconds": row["cpu_s"], "at": at}

    for seed in range(seeds):
        for way, own in ways(base):
            name = f"{way} {own} seed {seed}"
            results.get(name, partial(measure, way, own, seed))
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def ways(base: int) -> list[tuple[str, int]]:
    """What is trained, and the side of the grid that it is made for."""
    return [("fixed", base), ("random", base), *(("own", round(base * k)) for k in OWN)]


def found_in(results: common.Results) -> dict[str, dict[int, dict[int, float]]]:
    """Accuracies by way, side of the image and seed."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for label in results.labels():
        way = found.setdefault(label.split()[0], {})
        for seed, row in results.seeds(label).items():
            for side, accuracy in row["at"].items():
                way.setdefault(int(side), {})[seed] = accuracy
    return found


def drawn(results: common.Results, _: str) -> None:
    found = found_in(results)
    with common.picture(results.folder / "sizes.svg") as axes:
        for (way, at), colour in zip(
            found.items(), ("other", "Mixer", "ViT"), strict=True
        ):
            values = 100 * np.array([list(seeds.values()) for seeds in at.values()])
            line = {
                "marker": "o",
                "linestyle": "none" if way == "own" else "-",
                "color": common.COLOURS[colour],
            }
            axes.errorbar(list(at), values.mean(1), values.std(1), label=way, **line)
        axes.set(
            xlabel="side of the image, pixels",
            ylabel="test top-1, %",
            title="Trained at ...",
            xticks=list(found["fixed"]),
        )
        axes.legend()


def told(results: common.Results, budget: str) -> str:
    found = found_in(results)
    random_ = found["random"]
    others = ("fixed", "own")
    pairs = {
        (side, other): common.paired(random_[side], found[other][side])
        for side in found["fixed"]
        for other in others
        if side in found[other]
    }
    shown = dict(zip(pairs, common.starred(list(pairs.values())), strict=True))
    lines = []
    for side in found["fixed"]:
        tops = [
            common.spread(at[side].values()) if side in at else "-"
            for at in found.values()
        ]
        lines.append([side, *tops, *(shown.get((side, one), "-") for one in others)])
    heads = ["side", *found, *(f"random minus {other}" for other in others)]
    n = len(random_[next(iter(random_))])
    machine = next(iter(results.rows.values()))["machine"]
    return (
        f"{common.table(heads, lines)}\n\nTest top-1 in %, mean ± standard deviation, "
        f"n = {n} seeds, {SIZES[budget][0]} steps; differences in points, seed by seed "
        f"(the same weights and images), with 95 % intervals. {common.STARS} {machine}."
    )


if __name__ == "__main__":
    main()
