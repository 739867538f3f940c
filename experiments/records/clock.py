"""What the records share: their command line, CIFAR-10 or its stand-in, and training
until a time is up.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from mlp_mixer import ArraySet, open_dataset
from mlp_mixer.data.dataset import Dataset
from mlp_mixer.devices import keep_memory

OURS = "cifar10_16ep"
SMALL = [
    "train.batch_size=8",
    "model.num_blocks=2",
    "model.hidden_dim=16",
]  # a smoke test
Batches = Generator[tuple[Tensor, Tensor], None, None]
"""Normalised images (B, C, H, W) and labels (B,), without an end, or until the recipe
itself has enough.
"""


def asked(
    doc: str | None, table: str, *, seconds: float = 0, smoke: float = 1
) -> argparse.Namespace:
    """The command line of all experiments, with results and marks in the README named
    BUDGET/`table`.

    seconds, smoke: of a contestant's run, and of one at the budget smoke, unless
        `--seconds` says so; 0: no contest.
    """
    choice = common.arguments(
        doc or "", more=["--seconds", "--seeds", "--who"] if seconds else []
    )
    keep_memory()  # for all that is compared
    choice.smoke, choice.budget = choice.budget == "smoke", f"{choice.budget}/{table}"
    if seconds:
        choice.seconds = float(choice.seconds or (smoke if choice.smoke else seconds))
        choice.seeds = int(choice.seeds or (1 if choice.smoke else 3))
    return choice


def open_images(spec: str) -> Dataset:
    """The images in memory; of digits, with which a smoke test does, 60 and 20 in three
    channels of 32 x 32 pixels.
    """
    source = open_dataset(spec)
    if spec != "digits":
        return source

    def grown(images: Any, count: int) -> ArraySet:
        pixels = (
            images.images[:count].repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
        )
        return ArraySet(pixels, images.labels[:count], images.classes)

    return replace(
        source,
        train=grown(source.train, 60),
        test=grown(source.test, 20),
        held_out=None,
        _flat=None,
    )


def cpu_seconds() -> float:
    """Of this process, all its threads, and the processes that it has started and that
    have ended.

    The clock of the records: unlike wall seconds, it buys the same on a busy machine.
    """
    return sum(os.times()[:4])


def chosen(text: str | None, known: Sequence[str]) -> list[str]:
    """The names that `--who` gives, or all."""
    names = text.split(";") if text else list(known)
    if strange := [name for name in names if name not in known]:
        sys.exit(f"--who knows {'; '.join(known)}, got {'; '.join(strange)}")
    return names


class Entry(NamedTuple):
    """A network, its optimiser and its batches; mean and std: what it takes off the
    values of a test image.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    smoothing: float = 0.0
    factor: Callable[[float], float] | None = (
        None  # of the rates, by the share of the time; none: the batches see to it
    )
    clip: float = math.inf
    bf16: bool = False


def train_for(seconds: float, entry: Entry) -> dict[str, float]:
    """Train in place for so many processor seconds; what making batches takes counts,
    and so does what they look at.

    Returns images seen, seconds (wall and processor) and images per processor second.
    """
    model = entry.model
    optimizer = entry.optimizer
    batches = entry.batches
    rates = [group["lr"] for group in optimizer.param_groups]
    seen = 0
    device = next(model.parameters()).device
    model.train()
    wall = time.perf_counter()
    cpu = cpu_seconds()
    for images, labels in batches:
        share = (cpu_seconds() - cpu) / seconds
        if share >= 1 and seen:
            break
        for group, rate in (
            zip(optimizer.param_groups, rates, strict=True) if entry.factor else ()
        ):
            group["lr"] = rate * entry.factor(share)
        with torch.autocast(device.type, torch.bfloat16, enabled=entry.bf16):
            logits = model(images.to(device)).float()
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            logits, labels.to(device), label_smoothing=entry.smoothing
        ).backward()
        nn.utils.clip_grad_norm_(
            model.parameters(), entry.clip
        ) if entry.clip < math.inf else None
        optimizer.step()
        seen += len(labels)
    batches.close()
    spent = cpu_seconds() - cpu
    return {
        "images": seen,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": spent,
        "images_per_s": seen / spent,
    }


HEADS = [
    "parameters",
    "MMACs",
    "test top-1, %",
    "epochs",
    "images/s",
    "processor, s",
    "wall, s",
]


def cells(rows: Sequence[dict[str, Any]], count: int) -> list[str]:
    """One line under HEADS: the seeds' mean ± standard deviation; count: the images of
    an epoch.
    """
    rows = [row | {"epochs": row["images"] / count} for row in rows]
    kinds = {
        "epochs": "{:.2f}",
        "images_per_s": "{:.0f}",
        "cpu_s": "{:.0f}",
        "wall_s": "{:.0f}",
    }
    means = [
        common.spread([row[key] for row in rows], text, 1.0)
        for key, text in kinds.items()
    ]
    top1 = common.spread([row["top1"] for row in rows])
    return [f"{rows[0]['params']:,}", f"{rows[0]['mmacs']:.1f}", top1, *means]
