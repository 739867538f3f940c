"""What the experiments share: budgets, data in memory, one recipe for any network,
results that outlive a kill.

A row of results is written as soon as it is measured, and a run that is started again
goes on after the last one. The recipe is one and the same for every network that is
compared (AdamW, cosine, flips and shifts), tuned for none of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mlp_mixer import ArraySet, UserError, __version__, open_dataset
from mlp_mixer.machine import commit
from mlp_mixer.training.optim.build import kernel_names

BUDGETS = ("smoke", "cpu", "gpu", "full")
COLOURS = {
    "Mixer": "#c8553d",
    "ViT": "#2f6690",
    "ResNet": "#588157",
    "other": "#7a7a7a",
}


# What was asked for


def arguments(
    doc: str, *, data: bool = True, more: Sequence[str] = ()
) -> argparse.Namespace:
    """The command line that all experiments have: budget, data, out, device, threads;
    and `more` that take a text.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--budget",
        choices=BUDGETS,
        default="smoke",
        help="a minute, CPU hours, a GPU hour, or all of it",
    )
    if data:
        parser.add_argument(
            "--data", help="such as cifar10:PATH; smoke does with the embedded digits"
        )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results; default: results/BUDGET beside run.py",
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, default=1)
    for name in more:
        parser.add_argument(name)
    choice = parser.parse_args()
    if data and choice.data is None:
        if choice.budget != "smoke":
            parser.error(
                f"--budget {choice.budget} needs --data, such as --data cifar10:PATH"
            )
        choice.data = "digits"
    torch.set_num_threads(choice.threads)
    return choice


class Data(NamedTuple):
    """Images uint8 (N, C, H, W) and labels int64 (N,), for training and for the one
    look at the end.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def mirrored(self) -> bool:
        """Whether a mirrored image is still one of its class: not of digits."""
        return self.images.shape[-1] >= 28

    def part(self, fraction: float, seed: int = 0) -> Data:
        """That fraction of each class of the training images, at least one; the test
        images stay.
        """
        draw = torch.Generator().manual_seed(seed)
        chosen = []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero()[:, 0]
            count = max(1, round(len(members) * fraction))
            chosen.append(members[torch.randperm(len(members), generator=draw)[:count]])
        kept = torch.cat(chosen).sort().values
        return self._replace(images=self.images[kept], labels=self.labels[kept])

    def split(self, fraction: float = 0.1, seed: int = 0) -> Data:
        """The training images alone, so many of each class held out in the place of the
        test: to choose by.
        """
        order = torch.randperm(
            len(self.labels), generator=torch.Generator().manual_seed(seed)
        )
        held, kept = order.tensor_split([round(len(order) * fraction)])
        return Data(
            *(
                part[rows]
                for rows in (kept, held)
                for part in (self.images, self.labels)
            ),
            self.classes,
        )


def load_data(spec: str) -> Data:
    """A source whose images are of one size, in memory."""
    source = open_dataset(spec)
    parts: list[Tensor] = []
    for images in (source.train, source.test):
        if not isinstance(images, ArraySet):
            raise UserError(
                f"{spec}: the experiments need images of one size in memory, such as cifar10:PATH"
            )
        stacked = np.stack([images.image(index) for index in range(len(images))])
        parts += [
            torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(images.labels),
        ]
    return Data(parts[0], parts[1], parts[2], parts[3], source.train.classes)


# One recipe for all


@dataclass(frozen=True)
class Recipe:
    """AdamW with a cosine after a linear warm-up (5 %), weight decay on matrices, flips
    and shifts by an eighth.
    """

    steps: int = 600
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05
    smoothing: float = 0.1
    shift: float = 0.125
    mirror: bool = True
    clip: float = 1.0


Change = Callable[[Tensor], Tensor]
"""Float images (B, C, H, W) after augmentation -> what the network is shown: pixels
permuted, covered, ...
"""


def backward(loss_of: Callable[[], Tensor]) -> Tensor:
    """Add the gradients of the loss; returns it."""
    loss = loss_of()
    loss.backward()
    return loss.detach()


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    *,
    device: str = "cpu",
    change: Change = lambda images: images,
    augment: Change | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    gradients: Callable[[Callable[[], Tensor]], Tensor] = backward,
    curve_at: Sequence[int] = (),
) -> dict[str, Any]:
    """Train `model` in place and look at the test images at the end, and after the
    steps of `curve_at`.

    augment: of images (B, C, H, W) in [0, 1], in the place of flips and shifts.
    optimizer: made from the model; its learning rates are scaled by the schedule.
        gradients: takes what computes the
    loss, fills the gradients (SAM does it in another way than `backward`) and returns
    the loss; they are clipped then. Returns top1 in [0, 1], the last losses' mean,
    seconds of training (wall and processor), and the curve.
    """
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    model.to(device).train()
    images = data.images.to(device)
    labels = data.labels.to(device)
    mean, std = moments(data.images)
    optimizer_ = optimizer(model) if optimizer else _adamw(model, recipe)
    rates = [group["lr"] for group in optimizer_.param_groups]
    warm = max(1, recipe.steps // 20)
    order = torch.empty(0, dtype=torch.int64)
    losses: list[float] = []
    curve: list[tuple[int, float]] = []
    wall = time.perf_counter()
    cpu = time.process_time()
    for number in range(recipe.steps):
        while len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(labels), generator=draw)])
        rows = order[: recipe.batch].to(device)
        order = order[recipe.batch :]
        if augment is None:
            seen = floats(images[rows], mean, std)
            seen = _augmented(seen, draw, recipe, data.mirrored)
        else:
            seen = floats(255 * augment(images[rows].float() / 255), mean, std)
        shown = change(seen)
        scale = min(
            (number + 1) / warm,
            0.5
            + 0.5 * math.cos(math.pi * max(0, number - warm) / (recipe.steps - warm)),
        )
        for group, rate in zip(optimizer_.param_groups, rates, strict=True):
            group["lr"] = rate * scale

        def loss_of(shown: Tensor = shown, rows: Tensor = rows) -> Tensor:
            return nn.functional.cross_entropy(
                model(shown), labels[rows], label_smoothing=recipe.smoothing
            )

        optimizer_.zero_grad()
        losses.append(float(gradients(loss_of)))
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer_.step()
        if number + 1 in curve_at:
            curve.append((number + 1, top1(model, data, change=change, device=device)))
            model.train()
    seconds = {
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
    }
    accuracy = top1(model, data, change=change, device=device)
    tail = statistics.mean(losses[-max(1, len(losses) // 20) :])
    return {"top1": accuracy, "loss": round(tail, 4), **seconds, "curve": curve}


def top1(
    model: nn.Module,
    data: Data,
    *,
    change: Change = lambda images: images,
    device: str = "cpu",
) -> float:
    """The fraction of the test images whose best class is right."""
    return float(
        (answers(model, data, change=change, device=device) == data.test_labels)
        .double()
        .mean()
    )


@torch.inference_mode()
def answers(
    model: nn.Module,
    data: Data,
    *,
    change: Change = lambda images: images,
    device: str = "cpu",
) -> Tensor:
    """The best class (N,) of each of the test images, normalised as the training images
    were.
    """
    model.to(device).eval()
    mean, std = moments(data.images)
    parts = [
        model(change(floats(part.to(device), mean, std))).argmax(dim=1).cpu()
        for part in data.test_images.split(500)
    ]
    return torch.cat(parts)


def _adamw(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    names = kernel_names(model)
    named = list(model.named_parameters())
    kernels = [parameter for name, parameter in named if name in names]
    others = [parameter for name, parameter in named if name not in names]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    sample = images[:: max(1, len(images) // 2000)].float() / 255
    return sample.mean(dim=(0, 2, 3))[:, None, None], sample.std(dim=(0, 2, 3))[
        :, None, None
    ]


def floats(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (images.float() / 255 - mean.to(images.device)) / std.to(images.device)


def _augmented(
    images: Tensor, draw: torch.Generator, recipe: Recipe, mirrored: bool
) -> Tensor:
    """Each image shifted by its own whole number of pixels, zero (the mean) beyond, and
    mirrored half of the time.
    """
    B, _, H, W = images.shape
    reach = round(recipe.shift * H)
    down, right = torch.randint(0, 2 * reach + 1, (2, B, 1), generator=draw)
    rows = down + torch.arange(H)
    columns = right + torch.arange(W)
    if recipe.mirror and mirrored:
        columns = torch.where(
            torch.rand(B, 1, generator=draw) < 0.5, columns.flip(1), columns
        )
    padded = nn.functional.pad(images, [reach] * 4)
    index = torch.arange(B)[:, None, None], rows[:, :, None], columns[:, None, :]
    return (
        padded.permute(0, 2, 3, 1)[tuple(part.to(images.device) for part in index)]
        .permute(0, 3, 1, 2)
        .contiguous()
    )


# Results


class Results:
    """Rows of results in a JSON-lines file, by name; whoever starts again finds what is
    done.
    """

    def __init__(self, choice: argparse.Namespace, script: str) -> None:
        self.folder: Path = (
            choice.out or Path(script).parent / "results" / choice.budget
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "rows.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
        self.rows: dict[str, dict[str, Any]] = {
            row["name"]: row for row in map(json.loads, whole.splitlines())
        }
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")

    def get(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of that name: as found, or measured now and kept. Progress is
        printed.
        """
        if name not in self.rows:
            row = {"name": name, **measure(), "machine": machine()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.rows[name] = row
            shown = {
                key: value
                for key, value in row.items()
                if isinstance(value, int | float)
            }
            print(
                f"{name}: "
                + ", ".join(f"{key} {value:.4g}" for key, value in shown.items()),
                flush=True,
            )
        return self.rows[name]

    def of_seeds(self, label: str, seeds: int, key: str = "top1") -> list[Any]:
        """What the rows `label seed 0`, `label seed 1`, ... have under that key."""
        return [self.rows[f"{label} seed {seed}"][key] for seed in range(seeds)]


def machine() -> str:
    """Processor or GPU, threads, versions and commit: what a figure is worth nothing
    without.
    """
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in info.read_text().splitlines()
        if "model name" in line
    ]
    chip = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else (names or [platform.processor()])[0]
    )
    known = commit()
    of_commit = f", commit {known}" if known else ""
    return f"{chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, mlp_mixer {__version__}{of_commit}"


def spread(values: Sequence[float], text: str = "{:.1f}", scale: float = 100.0) -> str:
    """Mean ± standard deviation, or the value alone; by default of fractions, in per
    cent.
    """
    scaled = [value * scale for value in values]
    middle = text.format(statistics.mean(scaled))
    return (
        f"{middle} ± {text.format(statistics.stdev(scaled))}"
        if len(scaled) > 1
        else middle
    )


def per_cent(columns: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Means and standard deviations of fractions, as `errorbar` takes them."""
    return [100 * statistics.mean(c) for c in columns], [
        100 * statistics.stdev(c) for c in columns
    ]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell) for cell in line) + " |" for line in lines
    )


def write_up(choice: argparse.Namespace, script: str, text: str) -> None:
    """Print the tables; at a budget other than smoke also put them into README.md,
    between its two marks.
    """
    print(text)
    readme = Path(script).parent / "README.md"
    opening = f"<!-- {choice.budget} -->"
    closing = "<!-- end -->"
    page = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if choice.budget != "smoke" and choice.out is None and opening in page:
        before, rest = page.split(opening, 1)
        after = rest.split(closing, 1)[1]
        readme.write_text(
            f"{before}{opening}\n{text.strip()}\n{closing}{after}", encoding="utf-8"
        )


@contextmanager
def picture(
    path: Path, columns: int = 1, width: float = 4.6, height: float = 3.2
) -> Iterator[Any]:
    """`with picture(folder / "name.svg") as axes:` draws in the one style of all
    experiments and writes the file.
    """
    import matplotlib as mpl

    mpl.use("agg")
    style: dict[str, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.hashsalt": "mixer",
    }
    style |= {
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
    style |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    style |= {"lines.linewidth": 1.8, "lines.markersize": 4.5}
    with mpl.rc_context(style):
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            1, columns, figsize=(width * columns, height), layout="constrained"
        )
        yield axes
        figure.savefig(
            path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150
        )
        pyplot.close(figure)
    print(f"drew {path}")
