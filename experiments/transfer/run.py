"""Does a Mixer that first learnt from images without labels do better with few of them
than one from scratch?

    python experiments/transfer/run.py --budget smoke|cpu|gpu|full [--data cifar10:PATH]
    [--out FOLDER]

Pre-trained once each: "covered" and "views" without labels (pretext.py), "half" with
the labels of the first half of the classes. Then the frozen features' few-shot and
linear accuracy, and fine-tuning with some of the labels, beside a network from scratch
with the same steps, and two that see as many images in all, those of the pretext
included: "long" with the flips and shifts of all fine-tuning, "long views" with the
crops and colours of the pretext "views". Learning rates are chosen on a tenth of the
training images that was held out; the grid goes on until it brackets the best. Weights:
results/BUDGET/runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors
from pretext import PRETEXTS, pretrain, views

from mlp_mixer import MlpMixer, load, save
from mlp_mixer.evaluation import fewshot_accuracy

SHOTS = (1, 5, 10, 25)


class Plan(NamedTuple):
    passes: int  # images through the network in a pre-training; two views are two
    recipe: common.Recipe  # of fine-tuning and of training from scratch
    grid: int  # patches on a side
    size: dict[str, Any]
    seeds: int
    rates: tuple[float, ...] = (1e-3, 3e-3, 9e-3)
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    long_seeds: int = 1


LEAST, SMALL, LARGE = (
    sizes["Mixer"]["M"]
    for sizes in (competitors.LEAST, competitors.LITTLE, competitors.MEDIUM)
)
PLANS = {
    "smoke": Plan(
        512, common.Recipe(steps=6, batch=32), 4, LEAST, 2, (3e-3,), (0.1, 1.0)
    ),
    "cpu": Plan(200_000, common.Recipe(steps=160), 8, SMALL, 3),
    "gpu": Plan(10_000_000, common.Recipe(steps=2000), 8, LARGE, 3, long_seeds=3),
    "full": Plan(100_000_000, common.Recipe(steps=10000), 8, LARGE, 5, long_seeds=5),
}
LOOKS = dict(
    zip(("views", "covered", "half", "scratch"), common.COLOURS.values(), strict=True)
)

# From scratch, as many images as pretext and fine-tuning together; and their lines.
LONG = {"long": "--", "long views": ":"}


@contextmanager
def bfloat16(device: str) -> Iterator[None]:
    """Autocast around whole trainings: without its cache, which would keep the weights
    of the first step.
    """
    with torch.autocast(device, torch.bfloat16, cache_enabled=False):
        yield


def half_of(data: common.Data, *, second: bool) -> common.Data:
    """The images of one half of the classes; the labels stay."""
    middle = len(data.classes) // 2
    rows, at = (
        (labels >= middle) == second for labels in (data.labels, data.test_labels)
    )
    return common.Data(
        data.images[rows],
        data.labels[rows],
        data.test_images[at],
        data.test_labels[at],
        data.classes,
    )


class Lab(NamedTuple):
    data: common.Data
    plan: Plan
    choice: argparse.Namespace
    folder: Path  # of the weights

    def fresh(self, seed: int) -> MlpMixer:
        model = competitors.build(
            "Mixer", self.data, seed, grid=self.plan.grid, **self.plan.size
        )
        assert isinstance(model, MlpMixer)
        return model

    def pretrained(self, kind: str) -> dict[str, Any]:
        """Pre-train, seed 0, and keep the weights."""
        model = self.fresh(0)
        plan = self.plan
        device = self.choice.device
        with bfloat16(device):
            if kind == "half":
                recipe = replace(plan.recipe, steps=plan.passes // plan.recipe.batch)
                row = common.fit(
                    model, half_of(self.data, second=False), recipe, 0, device=device
                )
            else:
                # A pretext has no use for a classifier.
                model.reset_classifier(0)
                task = PRETEXTS[kind](
                    model, common.moments(self.data.images), self.data.mirrored
                )
                row = pretrain(
                    task, self.data.images, plan.passes, seed=0, device=device
                )
        save(self.folder / f"{kind}.safetensors", model.cpu())
        return row

    def begun(self, kind: str, seed: int) -> MlpMixer:
        """The network that a seed begins with: the pre-trained one, or fresh weights."""
        if kind == "scratch":
            return self.fresh(seed)
        path = self.folder / f"{kind}.safetensors"
        if not path.exists():  # rows travel, weights do not
            self.pretrained(kind)
        model = load(path).model
        model.reset_classifier(len(self.data.classes))
        return model

    @torch.inference_mode()
    def features(self, model: MlpMixer, images: torch.Tensor) -> torch.Tensor:
        """What the head reads (N, C), of images normalised as in `common.fit`."""
        device = self.choice.device
        moments = common.moments(self.data.images)
        model.to(device).eval()
        with bfloat16(device):
            shown = (
                common.floats(part.to(device), *moments) for part in images.split(500)
            )
            return torch.cat(
                [
                    model.forward_head(model.forward_features(x), True).float().cpu()
                    for x in shown
                ]
            )

    def fewshot(self, kind: str, seed: int) -> dict[str, Any]:
        """Few-shot accuracy of the frozen features on all classes, and on the half that
        "half" has not seen.

        The linear probe is the same ridge regression on a fifth of the training images.
        The seed draws what is learnt from, and the weights from scratch.
        """
        data = self.data.part(0.2, seed)
        model = self.begun(kind, seed)
        x = self.features(model, data.images)
        x_test = self.features(model, data.test_images)
        row: dict[str, Any] = {}
        for name, least in (("all", 0), ("new", len(data.classes) // 2)):
            rows = data.labels >= least
            test_rows = data.test_labels >= least
            y = data.labels[rows] - least
            y_test = data.test_labels[test_rows] - least
            for column, shots in {
                **{str(n): n for n in SHOTS},
                "probe": int(y.bincount().min()),
            }.items():
                four = x[rows], y, x_test[test_rows], y_test
                row[f"{name} {column}"] = fewshot_accuracy(
                    *four, shots=shots, seed=seed
                )
        return row

    def tuned(
        self,
        kind: str,
        data: common.Data,
        seed: int,
        lr: float,
        extra: int = 0,
        augment: common.Change | None = None,
    ) -> dict[str, Any]:
        """Train all weights, for `extra` images more, with another augmentation."""
        steps = self.plan.recipe.steps + extra // self.plan.recipe.batch
        recipe = replace(self.plan.recipe, lr=lr, steps=steps)
        with bfloat16(self.choice.device):
            row = common.fit(
                self.begun(kind, seed),
                data,
                recipe,
                seed,
                device=self.choice.device,
                augment=augment,
            )
        return row | {"images": len(data.labels), "steps": steps, "lr": lr}


def main() -> None:
    choice = common.arguments(__doc__)
    plan = PLANS[choice.budget]
    results = common.Results(choice, __file__)
    data = common.load_data(choice.data)
    (results.folder / "runs").mkdir(exist_ok=True)
    lab = Lab(data, plan, choice, results.folder / "runs")
    for kind in (*PRETEXTS, "half"):
        results.get(f"pretrain {kind}", partial(lab.pretrained, kind))
    for seed in range(plan.seeds):
        for kind in LOOKS:
            results.get(
                f"features {kind} seed {seed}", partial(lab.fewshot, kind, seed)
            )
    part = data.split().part(0.1)
    starts = ("scratch", *PRETEXTS)
    best = {kind: rate_of(results, lab, kind, part) for kind in (*starts, "long")}
    for seed in range(plan.seeds):
        for fraction in plan.fractions:
            labelled = data.part(fraction, seed)
            for kind in starts:
                lr = best[kind]
                run = partial(lab.tuned, kind, labelled, seed, lr)
                results.get(f"{kind} {fraction:g} seed {seed}", run, lr=lr)
            if seed < plan.long_seeds:
                lr = best["long"]
                longer = partial(lab.tuned, "scratch", labelled, seed, lr, plan.passes)
                results.get(f"long {fraction:g} seed {seed}", longer, lr=lr)
                # What "views" gains over "long" may be its augmentation's alone.
                crops = partial(views, mirrored=data.mirrored)
                run = partial(longer, augment=crops)
                results.get(f"long views {fraction:g} seed {seed}", run, lr=lr)
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def rate_of(results: common.Results, lab: Lab, kind: str, part: common.Data) -> float:
    """The learning rate of a start, by images held out from it; of "long" by runs of
    its own length.
    """
    begin, extra = ("scratch", lab.plan.passes) if kind == "long" else (kind, 0)

    def accuracy(lr: float) -> float:
        run = partial(lab.tuned, begin, part, 0, lr, extra)
        return float(results.get(f"lr {kind} {lr:g}", run)["top1"])

    return common.bracketed(lab.plan.rates, accuracy)


TITLES = {"all": "Few-shot, frozen", "new": "The other half of the classes"}
SHOWN = (*map(str, SHOTS), "probe")
TUNED = ("views", "covered", "scratch", *LONG)


def starts_of(which: str) -> list[str]:
    """The starts of a few-shot table: "half" has seen half of all labels."""
    return [kind for kind in LOOKS if (which, kind) != ("all", "half")]


def fractions_of(results: common.Results) -> list[float]:
    """The shares of the labels, of the rows that there are."""
    labels = (label.split() for label in results.labels())
    return sorted({float(words[-1]) for words in labels if words[0] == "scratch"})


def fewshot_table(results: common.Results, which: str) -> str:
    tops = {
        kind: [results.by_seed(f"features {kind}", f"{which} {one}") for one in SHOWN]
        for kind in starts_of(which)
    }
    pairs = [(kind, "scratch") for kind in tops if kind != "scratch"]
    if "half" in tops:
        pairs.append(("views", "half"))
    lines = [
        [kind, *(common.spread(values.values()) for values in columns)]
        for kind, columns in tops.items()
    ]
    heads = ["start", *(f"{shots} a class" for shots in SHOTS), "linear"]
    return f"{common.table(heads, lines + difference_lines(tops, pairs))}"


def difference_lines(
    tops: dict[str, list[dict[int, float]]], pairs: list[tuple[str, str]]
) -> list[list[str]]:
    """One line of a table for each pair: the first minus the second, seed by seed."""
    found = [
        common.paired(ours, theirs)
        for one, other in pairs
        for ours, theirs in zip(tops[one], tops[other], strict=True)
    ]
    cells = iter(common.starred(found))
    return [
        [f"{one} minus {other}", *(next(cells) for _ in tops[one])]
        for one, other in pairs
    ]


def tuned_table(results: common.Results) -> str:
    fractions = fractions_of(results)
    tops = {
        kind: [results.by_seed(f"{kind} {fraction:g}") for fraction in fractions]
        for kind in TUNED
    }
    tops = {kind: columns for kind, columns in tops.items() if all(columns)}
    lines = []
    for kind, columns in tops.items():
        row = next(iter(results.seeds(f"{kind} {fractions[0]:g}").values()))
        tried = results.tried("lr long ") if kind in LONG else {}
        tried = tried or results.tried(f"lr {'scratch' if kind in LONG else kind} ")
        line = [
            kind,
            len(columns[0]),
            common.rate_cell(row["lr"], tried),
            row["steps"],
            *(common.spread(values.values()) for values in columns),
        ]
        lines.append(line)
    pairs = [("views", "scratch"), ("covered", "scratch")]
    pairs += [("views", kind) for kind in LONG if kind in tops]
    for line in difference_lines(tops, pairs):
        one, _, other = line[0].partition(" minus ")
        n = len(set(tops[one][0]) & set(tops[other][0]))
        lines.append([line[0], n, "", "", *line[1:]])
    shares = [f"{100 * fraction:g} % of the labels" for fraction in fractions]
    missing = [f"`{kind}`" for kind in LONG if kind not in tops]
    text = common.table(["start", "n", "lr", "steps", *shares], lines)
    if missing:
        text += f"\n\nNot run yet: {', '.join(missing)}."
    return text


def told(results: common.Results, budget: str) -> str:
    """Few-shot and fine-tuned accuracies, and what the starts differ by."""
    seeds = len(results.seeds("features scratch"))
    text = [
        f"n = {seeds} draws of labels (of `scratch` also of weights), top-1 in %, mean ± "
        "standard deviation; differences in points, draw by draw, with 95 % intervals. "
        f"{common.STARS} {common.ENDS}"
    ]
    for which, title in TITLES.items():
        text += [f"{title}:", fewshot_table(results, which)]
    text += ["Fine-tuned, all weights:", tuned_table(results)]
    costs = [(kind, results.rows[f"pretrain {kind}"]) for kind in (*PRETEXTS, "half")]
    spent = ", ".join(
        f"{kind} {row['cpu_s']:.0f} s (loss {row['loss']:.2f})" for kind, row in costs
    )
    text.append(
        f"Pre-trained once each on {PLANS[budget].passes:,} images through the network: "
        f"{spent} of processor time. {costs[0][1]['machine']}."
    )
    return "\n\n".join(text)


def drawn(results: common.Results, _: str) -> None:
    with common.picture(results.folder / "transfer.svg", 3, width=3.4) as axes:
        for ax, (which, title) in zip(axes, TITLES.items(), strict=False):
            for kind in starts_of(which):
                found = [
                    results.by_seed(f"features {kind}", f"{which} {shots}")
                    for shots in SHOTS
                ]
                ax.errorbar(
                    SHOTS,
                    *common.per_cent([values.values() for values in found]),
                    marker="o",
                    capsize=2,
                    color=LOOKS[kind],
                    label=kind,
                )
            ax.set(
                xscale="log", xlabel="images of a class", title=title, ylabel="top-1, %"
            )
            ax.set_xticks(SHOTS, SHOTS)
            ax.legend()
        fractions = fractions_of(results)
        shares = [100 * fraction for fraction in fractions]
        for kind in TUNED:
            found = [results.by_seed(f"{kind} {fraction:g}") for fraction in fractions]
            if not all(found):
                continue
            axes[2].plot(
                shares,
                [100 * statistics.mean(values.values()) for values in found],
                LONG.get(kind, "-"),
                marker="o",
                color=LOOKS.get(kind, LOOKS["scratch"]),
                label=kind,
            )
        axes[2].set(
            xscale="log", xlabel="labels, % of the training images", title="Fine-tuned"
        )
        axes[2].legend()
        axes[2].set_xticks(shares, [f"{share:g}" for share in shares])


if __name__ == "__main__":
    main()
