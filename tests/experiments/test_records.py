"""`experiments/records`: the peers are what their sources say, the clock is one for
all, rows are measured once.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mlp_mixer import create_model
from mlp_mixer.config import override

from ..commands import run

ROOT = Path(__file__).parents[2] / "experiments" / "records"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TWICE = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
path = sys.argv.pop(1) + "/" + sys.argv.pop(1)
sys.argv[0] = path
for _ in range(2):
    typed = list(sys.argv)
    runpy.run_path(path, run_name="__main__")
    sys.argv = typed
    print("AGAIN", flush=True)
"""


@pytest.fixture(scope="module")
def records() -> Iterator[SimpleNamespace]:
    """The modules, imported as the scripts import them."""
    sys.path.insert(0, str(ROOT))
    try:
        import clock
        import peers

        run = SimpleNamespace(**runpy.run_path(str(ROOT / "run.py")))
        yield SimpleNamespace(clock=clock, peers=peers, run=run)
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(
        20
    ) % 10


@pytest.mark.parametrize(
    ("script", "who"),
    [("contest", "ours;timm;Keras example"), ("photos", "Mixer 64/8;ResNet-18 96")],
)
def test_smoke_and_again(script: str, who: str, tmp_path: Path) -> None:
    command = [str(ROOT), f"{script}.py", "--budget", "smoke", "--out", str(tmp_path)]
    command += ["--who", who, "--threads", "1"]
    done = run(["-c", TWICE, *command], env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, _ = done.stdout.split("AGAIN")
    assert all(
        f"\n| {name} |" in second and f"{name} seed 0:" in first
        for name in who.split(";")
    )
    assert "seed 0:" not in second  # nothing was measured again
    rows = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    expected = len(who.split(";"))
    if script == "photos":
        expected = 2 * expected + 2  # a rate each, ridge and the linear probe
    assert len(rows) == expected


def test_small_folders_in_small(tmp_path: Path) -> None:
    words = [ROOT / "small_folders.py", "--out", tmp_path]
    done = run(words, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    found = {row["name"]: row for row in map(json.loads, rows)}
    assert set(found) == {f"20 {way} seed 0" for way in ("auto", "frozen", "random")}
    assert all(row["n"] == 20 for row in found.values())
    # Handwritten digits: features of photographs tell them from each other, too.
    assert found["20 frozen seed 0"]["top1"] > 0.3


def test_peers_have_their_own_numbers_of_parameters(records: Any, images: Any) -> None:
    counts = {
        name: sum(p.numel() for p in make(*images, 10).model.parameters())
        for name, make in records.peers.PEERS.items()
    }
    # of lavish619: hidden widths 4 S and C / 2, no norm before the mean
    S = 64
    C = 512
    block = 4 * C + 2 * S * 4 * S + 4 * S + S + 2 * C * C // 2 + C // 2 + C
    assert counts["lavish619"] == 3 * 4 * 4 * C + C + 8 * block + 10 * C + 10
    assert (
        counts["Keras example"] == 219_658
    )  # what count_params() of Keras 3.15.1 says of the example
    nano = sum(
        p.numel() for p in create_model("mixer_nano4", num_classes=10).parameters()
    )
    assert counts["timm"] == counts["timm, fitted"] == nano


def test_keras_augmentation_is_flip_and_zoom(
    records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.rand(4, 3, 64, 64)
    augmented = records.peers.KerasMixer.augmented
    for flipped, expected in ((0.9, pictures), (0.1, pictures.flip(3))):
        draws = iter([torch.full((4, 2), 0.5), torch.full((4,), flipped)])
        monkeypatch.setattr(torch, "rand", lambda *size, draws=draws: next(draws))
        torch.testing.assert_close(augmented(pictures), expected, rtol=0, atol=1e-4)
    draws = iter(
        [torch.tensor([[0.5, 1.0]] * 4), torch.full((4,), 0.9)]
    )  # rows seen from 1.2 times as far
    monkeypatch.setattr(torch, "rand", lambda *size: next(draws))
    ramp = torch.linspace(-31.5, 31.5, 64)[:, None].expand(4, 3, 64, 64)
    torch.testing.assert_close(
        augmented(ramp)[:, :, 10:54], 1.2 * ramp[:, :, 10:54], rtol=0, atol=1e-3
    )


def test_keras_callbacks_halve_and_stop_and_bring_back_the_best(
    records: Any, images: Any
) -> None:
    peer = records.peers.keras_example(*images, 10)
    assert (
        sum(1 for _ in peer.batches) == 11
    )  # the loss never falls: the first epoch is the best, ten more are not
    assert peer.optimizer.param_groups[0]["lr"] == 0.005 / 4
    peer = records.peers.keras_example(*images, 10)
    before = {name: tensor.clone() for name, tensor in peer.model.state_dict().items()}
    next(peer.batches), next(peer.batches)
    for parameter in peer.model.parameters():
        parameter.data.add_(1)
    peer.batches.close()
    torch.testing.assert_close(peer.model.state_dict(), before, rtol=0, atol=0)


def test_timm_warms_up_by_epochs_unless_fitted(records: Any, images: Any) -> None:
    peer = records.peers.timm_mixer(*images, 10)
    rates = [
        peer.optimizer.param_groups[0]["lr"]
        for _, _ in zip(range(7), peer.batches, strict=False)
    ]
    assert rates == pytest.approx(
        [1e-5 + k * (0.05 - 1e-5) / 5 for k in range(5)] + rates[5:]
    )
    assert rates[5:] == pytest.approx([0.05] * 2, rel=2e-3)
    peer = records.peers.timm_mixer(*images, 10, fitted=True)
    shown, _ = next(peer.batches)
    assert peer.optimizer.param_groups[0]["lr"] == 0.05
    assert shown.shape == (20, 3, 32, 32)
    assert shown.abs().max() <= 1


def test_the_clock_ends_the_training_and_drives_the_rate(
    records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(100))
    seen = list[float]()
    closed = list[bool]()
    monkeypatch.setattr(records.clock, "cpu_seconds", lambda: next(ticks))
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        try:
            while True:
                yield torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
                seen.append(optimizer.param_groups[0]["lr"])
        finally:
            closed.append(True)

    entry = records.clock.Entry(
        model, optimizer, batches(), factor=lambda share: share
    )  # kept: nothing else closes it
    row = records.clock.train_for(4, entry)
    assert seen == [2.0, 4.0, 6.0]
    assert closed == [True]
    assert row["images"] == 15
    assert row["cpu_s"] == 5
    assert row["images_per_s"] == 3


def test_each_technique_is_switched_once(records: Any) -> None:
    plan = records.run.PLANS["smoke"]
    choice = SimpleNamespace(threads=1, device="cpu", smoke=True)
    base = records.run.short(plan, choice)
    found = records.run.changes(base)
    assert all(config != base for config in found.values())
    for name, (key, off, on) in records.run.TECHNIQUES.items():
        assert (f"no {name}" in found) != (f"with {name}" in found)
        switched = override(base, [f"{key}={on}"])
        assert f"no {name}" in records.run.changes(switched), name
        assert records.run.changes(switched)[f"no {name}"] == override(
            base, [f"{key}={off}"]
        )


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([10_000] * 3, "3 x 10,000"),
        ([351, 355, 363, 333, 335], "5 x 347 (333 to 363)"),
        ([20], "1 x 20"),
        ([1000, 1001], "2 x 1,000 (1,000 to 1,001)"),
    ],
)
def test_images_of_seeds_that_draw_their_own(counts: list[int], told: str) -> None:
    ladder = runpy.run_path(str(ROOT / "ladder.py"))
    assert ladder["images_told"]([{"n": count} for count in counts]) == told


def test_a_ladder_stands_and_is_not_climbed_twice(tmp_path: Path) -> None:
    command = [ROOT / "ladder.py", "digits", "--data", "digits", "--seeds", "2"]
    command += ["--views", "flip", "--epochs", "0.1", "--out", tmp_path]
    command += ["--set", "model.num_blocks=1", "--set", "train.device=cpu"]
    first = run(command, env=ENVIRONMENT).stdout
    rows = [
        json.loads(line)
        for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["name"][-6:] for row in rows] == ["seed 0", "seed 1"]
    assert rows[0]["n"] in (351, 355)
    assert (
        rows[0]["val_top1"] != rows[1]["val_top1"] or rows[0]["top1"] != rows[1]["top1"]
    )  # other images and weights
    assert {"top1", "top1_flip", "train_s", "mmacs"} <= set(rows[0])
    second = run(command, env=ENVIRONMENT).stdout
    assert "seed 0: top1" in first
    assert "seed 0: top1" not in second
    assert second in first  # the table alone
