"""A tiny run with everything random switched on, and the same one undisturbed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_mixer import Dataset
from mlp_mixer.images.settings import Augment
from mlp_mixer.training import train
from mlp_mixer.training.config import (
    DataChoice,
    LoopChoice,
    ModelChoice,
    OptimChoice,
    ScheduleChoice,
    TrainConfig,
)
from mlp_mixer.training.journal import Report

Tiny = Callable[..., TrainConfig]


def _tiny(**loop: Any) -> TrainConfig:
    """Digits, a Mixer of two narrow blocks, and everything random switched on."""
    often = {"log_every_steps": 4, "eval_every_epochs": 0.5, "save_every_steps": 3}
    cpu = {"device": "cpu", "threads": 1}
    settings = {"epochs": 1.5, "batch_size": 128, "ema": 0.9, "label_smoothing": 0.1}
    return TrainConfig(
        recipe="tiny",
        model=ModelChoice(
            name="mixer_pico2",
            num_blocks=2,
            hidden_dim=16,
            tokens_mlp_dim=8,
            channels_mlp_dim=32,
            dropout=0.1,
            drop_path=0.2,
        ),
        data=DataChoice(source="digits"),
        augment=Augment(crop="pad", pad=1, shift=0.1, rotate=10, scale=0.1, flip=True),
        optim=OptimChoice(lr=1e-2),
        schedule=ScheduleChoice(warmup_epochs=0.2),
        train=LoopChoice(**(settings | often | cpu | loop)),
    )


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Gives the configuration; arguments are fields of `train`."""
    return _tiny


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `tiny()` that nothing disturbed."""
    out = tmp_path_factory.mktemp("unbroken")
    train(_tiny(), out)
    return out


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Hashes what a run leaves that must not depend on how often it was interrupted."""

    def of(out: Path) -> dict[str, str]:
        checkpoints = [out / "best.safetensors", out / "last.safetensors"]
        found = {}
        for path in [*checkpoints, *sorted((out / "state").iterdir())]:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    return of


class CrashError(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="session")
def crash_at() -> Callable[[int], Report]:
    """Gives a report that crashes the run when this step is logged."""

    def report_for(step: int) -> Report:
        def report(row: dict[str, Any]) -> None:
            if row["kind"] == "train" and row["step"] >= step:
                raise CrashError

        return report

    return report_for


@pytest.fixture(scope="session")
def crash() -> type[Exception]:
    """What `crash_at` raises."""
    return CrashError


@pytest.fixture(scope="session")
def noise() -> Callable[..., Dataset]:
    """Gives random images of 8 x 8 pixels, whose classes come in turn."""

    def dataset(count: int = 120, classes: int = 3) -> Dataset:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        names = [f"class {number}" for number in range(classes)]
        return Dataset.from_arrays(images, np.arange(count) % classes, names)

    return dataset
