"""What was planned and what was found, as pictures and tables."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import common
import competitors


class Plan(NamedTuple):
    recipe: common.Recipe  # its steps: of the runs on a part
    grid: int  # patches on a side
    networks: competitors.Sizes
    steps: tuple[int, ...]
    seeds: int  # on all images, and one more on a part
    part: float = 0.02
    rates: tuple[float, ...] = (2e-3, 5e-3, 1.25e-2)


PART = {
    "Mixer": "-",
    "ViT": "-",
    "Mixer, no augmentation": ":",
}  # what is trained on a part


def front(points: list[tuple[float, float]], more: bool) -> list[tuple[float, float]]:
    """Those that no other beats in both; `more` of the first coordinate is better, or
    less.
    """
    ordered = sorted(
        points, key=lambda point: (-point[0] if more else point[0], -point[1])
    )
    return [
        (x, y)
        for i, (x, y) in enumerate(ordered)
        if all(y > better for _, better in ordered[:i])
    ]


def compute_table(results: common.Results, plan: Plan) -> str:
    """On all images: what each network costs and reaches."""
    lines = []
    for network, cost in results.rows["costs"]["costs"].items():
        tops = [results.by_seed(f"all {network} {steps}") for steps in plan.steps]
        lr = results.rows[f"all {network} {plan.steps[0]} seed 0"]["lr"]
        line = [
            network,
            f"{cost['params'] / 1000:.0f}k",
            f"{cost['mmacs']:.2f}",
            f"{cost['speed']:.0f}",
            common.rate_cell(lr, results.tried(f"pick {network} ")),
            *(common.spread(values.values()) for values in tops),
        ]
        lines.append(line)
    heads = [
        "network",
        "params",
        "MMACs",
        "images/s",
        "lr",
        *(f"{steps} steps" for steps in plan.steps),
    ]
    return (
        f"All images, n = {len(tops[0])}, top-1 in %, mean ± standard deviation. "
        f"{common.ENDS}\n\n{common.table(heads, lines)}"
    )


def rivals_table(results: common.Results, plan: Plan) -> str:
    """On all images: the Mixer minus the others, size by size."""
    others = [name for name in plan.networks if name != "Mixer"]
    found = [
        common.welch(
            results.by_seed(f"all Mixer {size} {steps}"),
            results.by_seed(f"all {other} {size} {steps}"),
        )
        for other in others
        for size in "SML"
        for steps in plan.steps
    ]
    cells = iter(common.starred(found))
    lines = [
        [f"Mixer {size} minus {other} {size}", *(next(cells) for _ in plan.steps)]
        for other in others
        for size in "SML"
    ]
    heads = ["difference", *(f"{steps} steps" for steps in plan.steps)]
    return (
        f"{common.table(heads, lines)}\n\nIn points, with 95 % intervals (Welch: a seed "
        "gives two networks nothing in common but an order of images). "
        f"{common.STARS}"
    )


def small_table(results: common.Results, plan: Plan) -> str:
    """On a part of the images: the sizes, and the large one minus the middle one."""
    tops = {
        label: [results.by_seed(f"part {label} {size}") for size in "SML"]
        for label in PART
    }
    bigger = common.starred(
        [common.paired(large, middle) for _, middle, large in tops.values()]
    )
    lines = []
    for label, difference in zip(PART, bigger, strict=True):
        losses = [results.by_seed(f"part {label} {size}", "loss") for size in "SML"]
        line = [
            label,
            *(common.spread(values.values()) for values in tops[label]),
            difference,
            *(f"{statistics.mean(values.values()):.2f}" for values in losses),
        ]
        lines.append(line)
    heads = [
        "network",
        *(f"top-1 of {size}" for size in "SML"),
        "L minus M",
        *(f"last loss of {size}" for size in "SML"),
    ]
    first = results.rows["part Mixer S seed 0"]
    epochs = plan.recipe.steps * plan.recipe.batch / first["images"]
    return (
        f"{first['images']} images, {epochs:.0f} epochs, n = {len(tops['Mixer'][0])}; "
        "differences in points, seed by seed (a seed draws the images), with 95 % "
        f"intervals. {common.STARS}\n\n{common.table(heads, lines)}"
    )


def compute(results: common.Results, plan: Plan) -> None:
    """On all images: the picture."""
    costs = results.rows["costs"]["costs"]
    points = {}
    for network, cost in costs.items():
        for steps in plan.steps:
            values = results.by_seed(f"all {network} {steps}").values()
            training = 3 * steps * plan.recipe.batch * cost["mmacs"] / 1e6
            xs = training, cost["speed"], cost["params"]
            points.setdefault((network.split()[0], steps), []).append(
                [*xs, 100 * statistics.mean(values)]
            )
    titles = (
        "multiply-accumulates of training, 10^12",
        "images per second of inference",
        "parameters",
    )
    with common.picture(results.folder / "compute.svg", 3, width=3.6) as axes:
        for which, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            for (name, steps), rows in points.items():
                style = {
                    "fillstyle": "full" if steps == plan.steps[-1] else "none",
                    "linewidth": 0.8,
                    "marker": "o",
                }
                xs = [row[which] for row in rows]
                tops = [row[-1] for row in rows]
                ax.plot(
                    xs,
                    tops,
                    label=f"{name}, {steps} steps",
                    color=common.COLOURS[name],
                    **style,
                )
            edge = front(
                [(row[which], row[-1]) for rows in points.values() for row in rows],
                more=which == 1,
            )
            ax.plot(
                *zip(*edge, strict=True),
                "--",
                color=common.COLOURS["other"],
                linewidth=1.2,
                label="Pareto front",
            )
            ax.set(xscale="log", xlabel=title, ylabel="top-1, %")
            ax.xaxis.set_minor_formatter("")
        axes[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def small_data(results: common.Results) -> None:
    """On a part of the images: the picture."""
    costs = results.rows["costs"]["costs"]
    with common.picture(results.folder / "small_data.svg") as ax:
        for label, style in PART.items():
            names = {
                f"part {label} {size}": f"{label.split(',')[0]} {size}"
                for size in "SML"
            }
            tops = [list(results.by_seed(row).values()) for row in names]
            look = {
                "fmt": style,
                "marker": "o",
                "capsize": 2,
                "color": common.COLOURS[label.split(",")[0]],
            }
            ax.errorbar(
                [costs[name]["mmacs"] for name in names.values()],
                *common.per_cent(tops),
                label=label,
                **look,
            )
        ax.set(
            xscale="log",
            xlabel="million multiply-accumulates an image",
            ylabel="top-1, %",
        )
        ax.legend()
