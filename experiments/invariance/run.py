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

import statistics
import sys
from functools import cache, partial
from itertools import takewhile
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
OTHERS = ("ViT", "ResNet")
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

    for seed in range(seeds):
        for kind in competitors.NETWORKS:
            results.get(f"{kind} {seed}", partial(train, kind, seed))
            for name, amount in wanted(side, channels):
                results.get(
                    f"{kind} {seed} {name} {amount}",
                    partial(measure, kind, seed, name, amount),
                )
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def wanted(side: int, channels: int) -> list[tuple[str, float]]:
    """The changes, and how much, that suit such images."""
    return [
        (name, amount)
        for name, (_, _, amounts) in CHANGES.items()
        for amount in amounts
        if suits(name, amount, side, channels)
    ]


def found_in(results: common.Results) -> Found:
    """The rows of the changes, in the order of CHANGES."""
    found: Found = {}
    for name, (_, _, amounts) in CHANGES.items():
        for kind in competitors.NETWORKS:
            for amount in amounts:
                seeds = (
                    results.rows.get(f"{kind} {seed} {name} {amount}")
                    for seed in range(len(results.rows))
                )
                if rows := list(takewhile(bool, seeds)):
                    found[kind, name, amount] = rows
    return found


def drawn(results: common.Results, _: str) -> None:
    draw(found_in(results), results.folder)


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


def told(results: common.Results, budget: str) -> str:
    steps, _, count = SIZES[budget]
    found = found_in(results)
    lines = []
    differences = []
    for name, amount in dict.fromkeys((name, amount) for _, name, amount in found):
        rows = {kind: found[kind, name, amount] for kind in competitors.NETWORKS}
        cells = [
            common.spread([row[key] for row in seeds])
            for key in ("agreement", "top1")
            for seeds in rows.values()
        ]
        lines.append([f"{name} {amount:g}" if CHANGES[name][0] else name, *cells])
        same = {
            kind: {seed: row["agreement"] for seed, row in enumerate(seeds)}
            for kind, seeds in rows.items()
        }
        if name != "as it is":
            differences += [common.welch(same["Mixer"], same[one]) for one in OTHERS]
    shown = common.starred(differences)
    # The first line has no change, so that every answer stays.
    lines[0] += ["-", "-"]
    for place, line in enumerate(lines[1:]):
        line += shown[2 * place : 2 * place + 2]
    heads = [
        f"{kind}: {what}"
        for what in ("same answer", "right")
        for kind in competitors.NETWORKS
    ]
    heads += [f"same answer, Mixer minus {kind}" for kind in OTHERS]
    n = len(found["Mixer", "as it is", 1])
    machine = results.rows["Mixer 0"]["machine"]
    return (
        f"{common.table(['change', *heads], lines)}\n\n"
        "Per cent, mean ± standard deviation over seeds; differences of the means in "
        f"points with 95 % intervals (Welch: a seed gives two networks nothing in common "
        f"but an order of images). {common.STARS} n = {n} seeds, {steps} steps, {count} "
        f"images. {machine}."
    )


if __name__ == "__main__":
    main()
