"""What only a GPU can show: skipped without one.

`benchmarks/gpu/QUEUE.md` says what waits to be run on one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import Predictor, create_model, load, open_dataset
from mlp_mixer.config import override
from mlp_mixer.images.augment import augment_batch, draws_needed
from mlp_mixer.images.mix import Mix, apply, mix_plan
from mlp_mixer.images.settings import Augment
from mlp_mixer.recipes import get_recipe
from mlp_mixer.runtime import engine
from mlp_mixer.training import train
from mlp_mixer.training.config import TrainConfig
from mlp_mixer.training.journal import read_journal

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def short(*settings: str) -> TrainConfig:
    return override(
        get_recipe("digits"),
        ["train.epochs=4", "train.device=cuda", "train.save_every_steps=5", *settings],
    )


@pytest.mark.parametrize("name", ["mixer_s16", "mixer_b32", "mixer_nano4"])
def test_logits_equal_those_of_the_cpu(name: str) -> None:
    model = create_model(name, num_classes=10).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    image = torch.randn(4, 3, *model.config.image_size)
    with torch.inference_mode():
        expected = model(image)
        found = model.cuda()(image.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_compiled_equals_eager() -> None:
    model = create_model("mixer_nano4", num_classes=10).cuda().eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    image = torch.randn(4, 3, 32, 32, device="cuda")
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True)(image)
        torch.testing.assert_close(compiled, model(image), atol=1e-4, rtol=0)


def test_the_engine_of_a_gpu_answers_as_the_module_for_any_batch() -> None:
    model = create_model("mixer_s16", num_classes=10).cuda().eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    run = engine(model, "torch")
    for n in (1, 8, 65, 8, 1):
        image = torch.randn(n, 3, 224, 224, device="cuda")
        with torch.inference_mode():
            torch.testing.assert_close(run(image), model(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_it_learns_and_answers(tmp_path: Path, precision: str) -> None:
    best = train(short("train.epochs=20", f"train.precision={precision}"), tmp_path)
    assert best["top1"] > 0.8
    predictor = Predictor(load(tmp_path), device="cuda")
    answer = predictor(open_dataset("digits").train.image(0))
    assert 0 < answer.pred_score <= 1


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    class Crash(Exception):  # noqa: N818
        pass

    def crash(row: dict[str, Any]) -> None:
        if row.get("step", 0) >= 20:
            raise Crash

    train(short(), tmp_path / "whole")
    with pytest.raises(Crash):
        train(short(), tmp_path / "crashed", report=crash)
    train(short(), tmp_path / "crashed", resume=True)
    expected = (tmp_path / "whole" / "last.safetensors").read_bytes()
    found = (tmp_path / "crashed" / "last.safetensors").read_bytes()
    assert found == expected


@pytest.mark.parametrize(
    "settings",
    [{"crop": "pad", "flip": True}, {"policy": "randaugment_bv", "erase": 0.5}],
)
def test_augmentation_and_mixing_on_the_gpu_are_those_of_the_cpu(
    settings: dict[str, Any],
) -> None:
    augment = Augment(**settings)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    draws = torch.rand(8, draws_needed(augment), dtype=torch.float64)
    here = augment_batch(images, draws, augment)
    there = augment_batch(images.cuda(), draws.cuda(), augment)
    # Colours are rounded to levels of 255, and two devices may round a tie apart.
    gaps = (here.int() - there.cpu().int()).abs()
    assert gaps.max() <= 1
    assert gaps.float().mean() < 1e-3
    for mix in (Mix(mixup=0.5), Mix(cutmix=1.0)):
        plan = mix_plan(mix, 0, 3, (32, 32))
        labels = torch.arange(8) % 3
        own = apply(plan, images, labels, 3, 2)
        theirs = apply(plan, images.cuda(), labels.cuda(), 3, 2)
        for a, b in zip(own, theirs, strict=True):
            torch.testing.assert_close(b.cpu(), a, atol=1e-4, rtol=1e-5)


def test_a_compiled_step_learns_as_the_eager_one(tmp_path: Path) -> None:
    losses = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        train(short("train.precision=fp32", f"train.compile={compiled}"), out)
        rows = read_journal(out)
        losses.append([row["loss"] for row in rows if row["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], abs=5e-3)
