"""Parts of a batch are chosen by what fits and is fast; learning stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.config import override
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import train
from mlp_mixer.training.config import TrainConfig
from mlp_mixer.training.extras import micro_batch
from mlp_mixer.training.journal import read_journal
from mlp_mixer.training.run import prepare


def tiny(*settings: str) -> TrainConfig:
    least = [
        "train.steps=6",
        "train.log_every_steps=1",
        "model.hidden_dim=8",
        "train.device=cpu",
        "train.threads=1",
    ]
    return override(get_recipe("digits"), [*least, *settings])


def speeds(monkeypatch: pytest.MonkeyPatch, by_size: dict[int, float]) -> list[int]:
    """Pretend these speeds; gives the sizes that were tried."""
    tried: list[int] = []

    def speed(run: object, images: int) -> float:
        tried.append(images)
        return by_size[images]

    monkeypatch.setattr(micro_batch, "_speed", speed)
    return tried


@pytest.mark.parametrize(
    ("by_size", "tried", "accumulate"),
    [
        ({8: 10, 16: 20, 32: 40, 64: 80}, [8, 16, 32, 64], 1),
        # Twice the memory for hardly more speed.
        ({8: 10, 16: 20, 32: 20.1, 64: 20.2}, [8, 16, 32, 64], 4),
        # Out of memory.
        ({8: 10, 16: 20, 32: 0, 64: 0}, [8, 16, 32], 4),
        ({8: 10, 16: 9, 32: 80, 64: 80}, [8, 16], 8),
    ],
)
def test_the_fastest_that_fits(
    monkeypatch: pytest.MonkeyPatch,
    by_size: dict[int, float],
    tried: list[int],
    accumulate: int,
) -> None:
    seen = speeds(monkeypatch, by_size)
    run = micro_batch.with_fitting_parts(prepare(tiny()), None)
    assert (seen, run.config.train.accumulate) == (tried, accumulate)
    assert f"train.accumulate {accumulate}" in run.notes[-1]


def test_mixing_groups_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = speeds(monkeypatch, {32: 1, 64: 2})
    micro_batch.with_fitting_parts(prepare(tiny("mix.mixup=0.5", "mix.group=32")), None)
    assert seen == [32, 64]


def test_a_full_device_is_no_error_until_nothing_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: object, batch: object, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(micro_batch.Stepper, "__call__", full)
    with pytest.raises(UserError, match="memory is too small for 8 images"):
        micro_batch.with_fitting_parts(prepare(tiny()), None)


def test_a_cpu_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(tiny())
    free = 17 * micro_batch._bytes_per_image(run)
    monkeypatch.setattr(micro_batch, "_free_bytes", lambda device: free)
    seen = speeds(monkeypatch, {8: 1, 16: 2})
    micro_batch.with_fitting_parts(run, None)
    assert seen == [8, 16]


def test_learning_is_the_same_and_a_resumed_run_keeps_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(out: Path) -> list[float]:
        return [row["loss"] for row in read_journal(out) if row["kind"] == "train"]

    noisy = tiny("model.drop_path=0.3", "mix.mixup=0.5")
    train(noisy, tmp_path / "plain")
    speeds(monkeypatch, {8: 1, 16: 5, 32: 2})
    train(noisy, tmp_path / "parts", find_batch_size=True)
    plain = losses(tmp_path / "plain")
    assert losses(tmp_path / "parts") == pytest.approx(plain, abs=1e-5)
    # It would fail if it were tried again.
    speeds(monkeypatch, {})
    train(noisy, tmp_path / "parts", find_batch_size=True, resume=True)


def test_it_trains_for_real(tmp_path: Path) -> None:
    train(tiny("train.accumulate=7"), tmp_path, find_batch_size=True)
    assert "images/s" in read_journal(tmp_path)[0]["text"]


def test_runs_whose_parts_are_settled_say_so() -> None:
    with pytest.raises(UserError, match="optim.sam_images"):
        micro_batch.with_fitting_parts(prepare(tiny("optim.rho=0.1")), None)
