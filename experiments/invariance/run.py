"""Which changes of its input leave a trained network's answer as it was, and how fast
does the answer go?

    python experiments/invariance/run.py --budget smoke|cpu|gpu|full [--data
    cifar10:PATH] [--out FOLDER]

Mixer, ViT and ResNet of equal cost are trained by one recipe that shows them mirror
images and small shifts and nothing else; then every test image is changed in one way,
more and more. Agreement: how often the best class is still the one that the unchanged
image had, right or wrong.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
from changes import CHANGES, changed, suits

Found = dict[
    tuple[str, str, float], list[dict[str, Any]]
]  # network, change, how much: a row for each seed
#         steps, seeds, test images
SIZES = {
    "smoke": (6, 1, 50),
    "cpu": (1000, 3, 2000),
    "gpu": (20000, 5, 10000),
    "full": (100000, 10, 10000),
}


def main() -> None:
    choice = common.arguments(__doc__)
    data = common.load_data(choice.data)
    results = common.Results(choice, __file__)
    steps, seeds, count = SIZES[choice.budget]
    side = data.images.shape[-1]
    channels = data.images.shape[1]
    test = data._replace(
        test_images=data.test_images[:count], test_labels=data.test_labels[:count]
    )
    weights = results.folder / "weights"
    weights.mkdir(exist_ok=True)

    def network(kind: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return competitors.NETWORKS[kind](side, channels, len(data.classes))

    def train(kind: str, seed: int) -> dict[str, object]:
        fresh = network(kind, seed)
        row = common.fit(
            fresh, data, common.Recipe(steps=steps), seed, device=choice.device
        )
        torch.save(fresh.state_dict(), weights / f"{kind}-{seed}.pt")
        return row | {"mmacs": round(competitors.mmacs(fresh, side, channels), 2)}

    @cache
    def trained(kind: str, seed: int) -> tuple[nn.Module, Tensor]:
        ready = network(kind, seed)
        ready.load_state_dict(
            torch.load(weights / f"{kind}-{seed}.pt", map_location=choice.device)
        )
        return ready, common.answers(ready, test, device=choice.device)

    def measure(kind: str, seed: int, name: str, amount: float) -> dict[str, float]:
        ready, before = trained(kind, seed)
        shown = changed(test.test_images, name, amount)
        after = common.answers(
            ready, test._replace(test_images=shown), device=choice.device
        )
        right = float((after == test.test_labels).double().mean())
        return {"agreement": float((after == before).double().mean()), "top1": right}

    wanted = [
        (name, a)
        for name, (_, _, amounts) in CHANGES.items()
        for a in amounts
        if suits(name, a, side, channels)
    ]
    found: Found = {}
    for seed in range(seeds):
        for kind in competitors.NETWORKS:
            machine = results.get(f"{kind} {seed}", partial(train, kind, seed))[
                "machine"
            ]
            for name, amount in wanted:
                row = results.get(
                    f"{kind} {seed} {name} {amount}",
                    partial(measure, kind, seed, name, amount),
                )
                found.setdefault((kind, name, amount), []).append(row)
    draw(found, results.folder)
    tell(choice, found, f"{seeds} seeds, {steps} steps, {count} images. {machine}.")


def draw(found: Found, folder: Path) -> None:
    names = [name for name, (unit, _, _) in CHANGES.items() if unit]
    for file, shown in (
        ("places.svg", names[:4]),
        ("values.svg", names[4:8]),
        ("shuffles.svg", names[8:]),
    ):
        with common.picture(folder / file, len(shown), width=3.1, height=2.9) as axes:
            for panel, name in zip(axes, shown, strict=True):
                amounts = [
                    a for kind, other, a in found if (kind, other) == ("Mixer", name)
                ]
                for kind in competitors.NETWORKS:
                    rows = [
                        [100 * row["agreement"] for row in found[kind, name, a]]
                        for a in amounts
                    ]
                    middle = [statistics.mean(row) for row in rows]
                    colour = common.COLOURS[kind]
                    spread = [
                        statistics.stdev(row) if len(row) > 1 else 0 for row in rows
                    ]
                    panel.errorbar(
                        range(len(amounts)),
                        middle,
                        spread,
                        marker="o",
                        color=colour,
                        label=kind,
                    )
                panel.set(
                    title=name.capitalize(), xlabel=CHANGES[name][0], ylim=(0, 101)
                )
                panel.set_xticks(range(len(amounts)), [f"{a:g}" for a in amounts])
            axes[0].set_ylabel("same answer as before, %")
            axes[0].legend()


def tell(choice: argparse.Namespace, found: Found, how: str) -> None:
    lines = []
    for name, amount in dict.fromkeys((name, amount) for _, name, amount in found):
        rows = [found[kind, name, amount] for kind in competitors.NETWORKS]
        cells = [
            common.spread([row[key] for row in seeds])
            for key in ("agreement", "top1")
            for seeds in rows
        ]
        lines.append([f"{name} {amount:g}" if CHANGES[name][0] else name, *cells])
    heads = [
        f"{kind}: {what}"
        for what in ("same answer", "right")
        for kind in competitors.NETWORKS
    ]
    text = common.table(["change", *heads], lines)
    common.write_up(
        choice, __file__, f"{text}\n\nPer cent, mean and standard deviation. {how}"
    )


if __name__ == "__main__":
    main()
