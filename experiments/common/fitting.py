"""One recipe for all networks that are compared, tuned for none of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlp_mixer.training.optim.build import kernel_names

from .images import Data, floats, moments


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
    gradients: takes what computes the loss, fills the gradients (SAM does it in another
        way than `backward`) and returns the loss; they are clipped then.

    Returns top1 in [0, 1], the last losses' mean, seconds of training (wall and
    processor), and the curve.
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
