"""What made the difference: the ten-minute recipe at a short schedule, one technique
switched off or on at a time.

    python experiments/records/run.py --budget smoke|cpu|gpu|full [--data cifar10:PATH]
    [--out FOLDER]

All rows see the same training images for the same number of steps; those whose steps
take another time get as many as the same processor time pays for. What is compared is
the accuracy on other training images, never on the test images. A technique that the
recipe uses is switched off, one that it does not use is switched on.
"""

from __future__ import annotations

import copy
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import common  # whose common.arguments() `asked` calls
import competitors
from clock import OURS, SMALL, asked, cpu_seconds, open_images

from mlp_mixer import cost, create_model, load
from mlp_mixer.config import override
from mlp_mixer.data.dataset import Dataset, stratified_split
from mlp_mixer.evaluation import evaluate
from mlp_mixer.randomness import steps_for
from mlp_mixer.recipes import get_recipe
from mlp_mixer.recipes.rescale import rescale
from mlp_mixer.training import TrainConfig, prepare, train
from mlp_mixer.training.optim.build import Ema, build_optimizer
from mlp_mixer.training.optim.schedule import warmup_length
from mlp_mixer.training.step import Stepper

# images that the recipe learns from: its averaging and warm-up keep their shares of the
# run
WHOLE = 45_000


class Plan(NamedTuple):
    images: int
    held: int
    steps: int
    seeds: int  # of the baseline, twice as many
    teacher: int  # steps


PLANS = {"smoke": Plan(40, 20, 2, 1, 2), "cpu": Plan(10_000, 5_000, 260, 3, 1_200)}
PLANS |= {
    "gpu": Plan(45_000, 5_000, 4_000, 5, 12_000),
    "full": Plan(45_000, 5_000, 20_000, 5, 40_000),
}


def short(plan: Plan, choice: Any) -> TrainConfig:
    """The recipe with the plan's steps; what `auto` and none mean is written out, so
    that equal runs compare so.
    """
    config = get_recipe(OURS)
    whole = config.train.steps or steps_for(
        config.train.epochs, config.train.batch_size, WHOLE
    )
    warm = warmup_length(config.schedule, whole, WHOLE, config.train.batch_size) / whole
    ema = (
        max(0.5, 1 - (1 - config.train.ema) * whole / plan.steps)
        if config.train.ema
        else 0.0
    )
    auto = config.train.precision == "auto"
    depth = config.model.drop_path or 0.0
    settings = [
        f"train.steps={plan.steps}",
        f"train.ema={ema}",
        "train.eval_every_epochs=1000000",
        "data.workers=0",
    ]
    settings += [
        "schedule.warmup_steps=none",
        f"schedule.warmup_share={warm}",
        f"model.drop_path={depth}",
    ]
    settings += [f"train.threads={choice.threads}", f"train.device={choice.device}"]
    settings += [
        "train.precision=" + ("fp32" if choice.device == "cpu" else "bf16")
    ] * auto
    return override(config, settings + SMALL * choice.smoke)


TECHNIQUES: dict[str, tuple[str, object, object]] = {  # the field, switched off and on
    "Muon": ("optim.name", "adamw", "muon"),
    "SAM": ("optim.rho", 0, 0.05),
    "averaged weights": ("train.ema", 0, 0.98),
    "label smoothing": ("train.label_smoothing", 0, 0.1),
    "bf16": ("train.precision", "fp32", "bf16"),
    "CutMix": ("mix.cutmix", 0, 1),
    "mixup": ("mix.mixup", 0, 0.2),
    "flips": ("augment.flip", "false", "true"),
    "alternating flips": ("augment.alternate", "false", "true"),
    "whitened stem": ("model.stem", "random", "whitened"),
    "stochastic depth": ("model.drop_path", 0, 0.1),
    "patches of 2 x 2": ("model.patch_size", "none", 2),
}
RATES = {
    "adamw": (2e-3, 4e-3, 8e-3),
    "muon": (8e-3, 1.6e-2, 3.2e-2),
}  # for the one that the recipe has not
VIEWS = (
    "flip",
    "shift",
)  # more than one view of each held-out image: of the baseline alone
OTHER_COST = (
    "Muon",
    "SAM",
    "bf16",
    "patches",
    "batches",
    "x C",
)  # as many steps as fit into the baseline's time


SAME_STEPS = {"a ResNet's answers, T 1": 1, "a ResNet's answers, T 4": 4}
ANSWERS = {**SAME_STEPS, "a ResNet's answers, T 4, equal time": 4}
"""Temperatures of a teacher's answers."""


def changes(base: TrainConfig) -> dict[str, TrainConfig]:
    """The changed runs by name."""
    found = {}
    for name, (key, off, on) in TECHNIQUES.items():
        without = override(base, [f"{key}={off}"])
        found |= (
            {f"no {name}": without}
            if without != base
            else {f"with {name}": override(base, [f"{key}={on}"])}
        )
    shape = create_model(base.model.name).config
    C = base.model.hidden_dim or shape.hidden_dim
    L = base.model.num_blocks or shape.num_blocks
    wide = round(C * math.sqrt(2) / 16) * 16
    sizes = [
        f"model.hidden_dim={wide}",
        f"model.tokens_mlp_dim={wide // 2}",
        f"model.channels_mlp_dim={4 * wide}",
    ]
    found[f"{L // 2} blocks x C {wide}"] = override(
        base, [f"model.num_blocks={L // 2}", *sizes]
    )
    for size in (
        base.train.batch_size // 2,
        2 * base.train.batch_size,
    ):  # the learning rate with the square root
        found[f"batches of {size}"] = rescale(base, batch_size=size)[0]
    return found


def paces(config: TrainConfig, source: Dataset) -> Iterator[float]:
    """Processor seconds of each step of a run, by hand."""
    run = prepare(config, source)
    model = run.model.train()
    batches = run.batches()
    average = copy.deepcopy(model).eval()
    ema = Ema(model, average, config.train.ema) if config.train.ema else None
    stepper = Stepper(run, model, build_optimizer(model, config.optim), ema)
    for step in range(run.total_steps):
        begin = time.process_time()
        stepper(batches[step], step)
        yield time.process_time() - begin


def speed(base: TrainConfig, changed: TrainConfig, source: Dataset) -> dict[str, Any]:
    """How many images the changed run learns from in the time of one of the baseline;
    measured in turns.
    """
    both = [override(config, ["train.steps=16"]) for config in (base, changed)]
    pairs = list(zip(*(paces(config, source) for config in both), strict=True))[4:]
    ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return {
        "speed": (ours / base.train.batch_size) / (theirs / changed.train.batch_size)
    }


def measured(
    config: TrainConfig,
    source: Dataset,
    seed: int,
    teacher: nn.Module | None = None,
    views: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One run by the package's `train`, and its accuracy on the images held out."""
    config = override(config, [f"train.seed={seed}"])
    begin = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", source=source, teacher=teacher)
        spent = cpu_seconds() - begin
        trained = load(Path(folder) / "run" / "last.safetensors")
    measure = partial(
        evaluate, trained.model, source.val, trained.preprocess, workers=0
    )
    counted = cost(trained.model)
    one = measure()
    row = {
        "top1": one.top1,
        "loss": one.loss,
        **{tta: measure(tta=tta).top1 for tta in views},
    }
    row |= {"params": counted.params, "mmacs": counted.macs / 1e6}
    return row | {"steps": config.train.steps, "lr": config.optim.lr, "cpu_s": spent}


def opened(spec: str, plan: Plan) -> Dataset:
    """The plan's training images, and others of them to choose by."""
    source = open_images(spec)
    rest, held = stratified_split(source.train.labels, plan.held / len(source.train), 0)
    if plan.images < len(rest):
        rest = rest[
            stratified_split(source.train.labels[rest], plan.images / len(rest), 1)[1]
        ]
    return replace(
        source, train=source.train.subset(rest), val=source.train.subset(held)
    )


def taught(
    choice: Any, plan: Plan, source: Dataset, results: common.Results
) -> nn.Module:
    """A ResNet, trained once on the same images by the recipe of all experiments; its
    weights are kept.
    """
    sets = [source.train, source.val]
    pixels = [
        torch.from_numpy(part.images).permute(0, 3, 1, 2).contiguous() for part in sets
    ]
    labels = [torch.from_numpy(part.labels) for part in sets]
    data = common.Data(pixels[0], labels[0], pixels[1], labels[1], source.train.classes)
    model = competitors.build(
        "ResNet",
        data,
        0,
        grid=0,
        **competitors.MEDIUM["ResNet"]["S" if choice.smoke else "M"],
    )
    kept = results.folder / "runs" / "teacher.pt"
    recipe = common.Recipe(plan.teacher, 8 if choice.smoke else 128)
    if not kept.exists():
        results.rows.pop("teacher", None)
        results.get(
            "teacher", lambda: common.fit(model, data, recipe, 0, device=choice.device)
        )
        kept.parent.mkdir(exist_ok=True)
        torch.save(model.state_dict(), kept)
    model.load_state_dict(torch.load(kept, weights_only=True))
    return model.to(choice.device)


def main() -> None:
    choice = asked(__doc__, "run")
    plan = PLANS[choice.budget.partition("/")[0]]
    results = common.Results(choice, __file__)
    source = opened(choice.data, plan)
    base = short(plan, choice)
    for seed in range(2 * plan.seeds):
        results.get(
            f"baseline seed {seed}", partial(measured, base, source, seed, views=VIEWS)
        )
    kinds = changes(base)
    for name, config in kinds.items():
        if any(word in name for word in OTHER_COST) and not choice.smoke:
            pace = results.get(f"speed {name}", partial(speed, base, config, source))[
                "speed"
            ]
            fitting = (
                plan.steps * pace * base.train.batch_size / config.train.batch_size
            )
            config = override(config, [f"train.steps={round(fitting)}"])
        if config.optim.name != base.optim.name and not choice.smoke:

            def accuracy(lr: float, name: str = name, config: Any = config) -> float:
                tried = override(config, [f"optim.lr={lr}"])
                run = partial(measured, tried, source, 100)  # a seed of its own
                return float(results.get(f"pick {name} {lr:g}", run)["top1"])

            lr = common.bracketed(RATES[config.optim.name], accuracy)
            config = override(config, [f"optim.lr={lr}"])
        for seed in range(plan.seeds):
            results.get(f"{name} seed {seed}", partial(measured, config, source, seed))
    teacher = taught(choice, plan, source, results)
    student = partial(measured, source=source, teacher=teacher)
    for label, temperature in ANSWERS.items():
        config = override(base, [f"distill.temperature={temperature}"])
        if "time" in label:
            steps = round(plan.steps * share_of_time(results, plan))
            config = override(config, [f"train.steps={max(1, steps)}"])
        for seed in range(plan.seeds):
            run = partial(student, config, seed=seed)
            results.get(f"{label} seed {seed}", run)
    drawn(results, choice.budget)
    text = told(results, choice.budget.partition("/")[0])
    common.write_up(choice, __file__, text)


def share_of_time(results: common.Results, plan: Plan) -> float:
    """Of the steps that a teacher leaves time for: it has to look at each image too."""
    plain, slow = (
        statistics.mean(results.of_seeds(name, plan.seeds, "cpu_s"))
        for name in ("baseline", next(iter(reversed(SAME_STEPS))))
    )
    return plain / slow


def differences(results: common.Results) -> dict[str, common.Difference]:
    """Each change minus the baseline, seed by seed, in the order of the rows."""
    baseline = results.by_seed("baseline")
    names = [name for name in results.labels() if name != "baseline"]
    found = {name: common.paired(results.by_seed(name), baseline) for name in names}
    for view in VIEWS:
        answers = results.by_seed("baseline", view)
        found[f"answers to {view} views"] = common.paired(answers, baseline)
    return found


def told(results: common.Results, budget: str) -> str:
    """Differences from the baseline, seed by seed."""
    found = differences(results)
    marks = dict(zip(found, common.stars(list(found.values())), strict=True))
    first = results.rows["baseline seed 0"]
    lines = []
    for name in ("baseline", *found):
        row = results.rows.get(f"{name} seed 0", first)
        view = name.removeprefix("answers to ").removesuffix(" views")
        tops = results.by_seed(name) or results.by_seed("baseline", view)
        line = [
            name,
            f"{row['params'] / 1000:.0f}k",
            f"{row['mmacs']:.1f}",
            f"{row['lr']:.2g}",
            row["steps"],
            f"{row['cpu_s']:.0f}",
            len(tops),
            common.spread(tops.values()),
            found[name].told() + marks[name] if name in found else "-",
        ]
        lines.append(line)
    heads = [
        "change",
        "params",
        "MMACs",
        "lr",
        "steps",
        "CPU s",
        "n",
        "accuracy, %",
        "difference",
    ]
    return (
        f"Recipe `{OURS}`, mean ± standard deviation on {PLANS[budget].held:,} held-out "
        "training images. Differences in points from the baseline's runs of the same "
        "seeds (the same order of images and, but for other shapes, the same initial "
        f"weights), with 95 % intervals. {common.STARS}\n\n{common.table(heads, lines)}"
        f"\n\n{first['machine']}."
    )


def drawn(results: common.Results, _: str) -> None:
    found = differences(results)
    names = list(found)[::-1]  # the first at the top
    with common.picture(results.folder / "changes.svg", width=6, height=5.4) as axes:
        common.draw_differences(axes, [found[name] for name in names])
        axes.set(xlabel="points above the baseline (bars: 95 % intervals)")
        axes.set_yticks(range(len(names)), names)


if __name__ == "__main__":
    main()
