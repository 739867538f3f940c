"""Three questions about training on this machine, each answered in one run.

    python benchmarks/training.py step
        S/16, batch 16, fp32, 2 threads: our step against timm's, eager and compiled
    python benchmarks/training.py loop
        the loop against its bare step, for models whose steps are short
    python benchmarks/training.py save
        how long saving a state holds training up

Competitors take turns, in processes of their own (`step`) or in turns of many steps
(`loop`, `save`), so that all meet the same noise. Printed are medians, quartiles,
processor seconds, and the ratio to ours.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mlp_mixer import Dataset, create_model
from mlp_mixer.config import override
from mlp_mixer.data.loader import Batch
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import train
from mlp_mixer.training.config import TrainConfig
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.run import prepare
from mlp_mixer.training.step import Stepper

ROUNDS = int(os.environ.get("ROUNDS", "9"))
THREADS = int(os.environ.get("THREADS", "2"))
Step = Callable[[], float]
# Wall seconds, CPU seconds, loss.
Measured = tuple[float, float, float]


def photos(images: int, side: int = 224, classes: int = 10) -> Dataset:
    """Noise of photos' size, in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    return Dataset.from_arrays(
        pixels, np.arange(images) % classes, [str(k) for k in range(classes)]
    )


def our_step() -> Step:
    """A step of `mlp-mixer train` on a batch of 16 photos."""
    settings = [
        "model.name=mixer_s16",
        "model.gelu=erf",
        "model.drop_path=0",
        "augment.crop=none",
        "train.batch_size=16",
        "train.device=cpu",
        f"train.threads={THREADS}",
        "train.label_smoothing=0",
        "optim.clip_norm=none",
        "optim.lr=1e-4",
        "optim.weight_decay=0.05",
        "schedule.decay=constant",
        "schedule.warmup_epochs=0",
    ]
    run = prepare(override(get_recipe("photos"), settings), photos(40))
    model = run.model.train()
    stepper = Stepper(run, model, build_optimizer(model, run.config.optim), None)
    batch = Batch(*same_batch(), torch.arange(16))
    return lambda: stepper(batch, 0).loss.item()


def timm_step(compiled: bool) -> Step:
    """A step of timm's training script, from the same start on the same batch."""
    import timm

    model = timm.create_model("mixer_s16_224", num_classes=10)
    torch.manual_seed(0)
    ours = create_model("mixer_s16", gelu="erf", num_classes=10)
    model.load_state_dict(ours.state_dict())
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, weight_decay=0.05, fused=True
    )
    forward = torch.compile(model) if compiled else model
    images, labels = same_batch()

    def step() -> float:
        x = (images.float() / 255 - 0.5) / 0.5
        loss = F.cross_entropy(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def same_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """16 images of noise around patterns of their classes: there is much to learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(16) % 10
    patterns = torch.randint(256, (10, 3, 224, 224), generator=generator)
    noise = torch.randint(256, (16, 3, 224, 224), generator=generator)
    return ((patterns[labels] + noise) // 2).to(torch.uint8), labels


COMPETITORS: dict[str, Callable[[], Step]] = {
    "ours": our_step,
    "timm eager": lambda: timm_step(compiled=False),
    "timm compiled": lambda: timm_step(compiled=True),
}


def serve(name: str, pipe: Connection) -> None:
    """Be one competitor: two steps to warm up, then one whenever asked."""
    if name == "ours":
        from mlp_mixer.devices import keep_memory

        keep_memory()
    torch.set_num_threads(THREADS)
    step = COMPETITORS[name]()
    for _ in range(2):
        step()
    pipe.send(None)
    while pipe.recv():
        wall = time.perf_counter()
        cpu = time.process_time()
        loss = step()
        pipe.send((time.perf_counter() - wall, time.process_time() - cpu, loss))


def compare_steps() -> None:
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in COMPETITORS:
        pipes[name], other = context.Pipe()
        context.Process(target=serve, args=(name, other), daemon=True).start()
        # Wait until it is ready: they warm up one after the other.
        pipes[name].recv()
    results: dict[str, list[Measured]] = {name: [] for name in COMPETITORS}
    for number in range(ROUNDS):
        names = list(COMPETITORS)
        for name in names[number % 3 :] + names[: number % 3]:
            pipes[name].send(True)
            results[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(False)
    for name, rows in results.items():
        print(f"{name:14} {step_line(rows, results['ours'])}")


def step_line(rows: list[Measured], ours: list[Measured]) -> str:
    """Format what was measured of a competitor."""
    walls = sorted(wall for wall, _, _ in rows)
    low, median, high = quartiles(walls)
    cpu = statistics.median(cpu for _, cpu, _ in rows)
    our_median = statistics.median(wall for wall, _, _ in ours)
    ratios = []
    for (wall, _, _), (our_wall, _, _) in zip(rows, ours, strict=True):
        ratios.append(wall / our_wall)
    paired = statistics.median(ratios)
    return (
        f"{median:6.3f} s [{low:.3f}, {high:.3f}]  cpu {cpu:6.3f} s  "
        f"time / ours {median / our_median:.3f} (paired {paired:.3f})  "
        f"losses {rows[0][2]:.5f} {rows[-1][2]:.5f}"
    )


def compare_loop() -> None:
    """Compare seconds per step of the loop with those of a bare step.

    The loop is measured between two lines of its journal; the bare step is forward,
    backward and optimizer alone.
    """
    small = [
        "train.device=cpu",
        "train.threads=1",
        "train.log_every_steps=50",
        "train.eval_every_epochs=1000",
        "train.steps=200",
    ]
    digits = override(get_recipe("digits"), small)
    compare_with_bare_step("digits, pico2, batch 64", digits, None)
    more = ["train.batch_size=32", "data.workers=1"]
    tiny = override(get_recipe("cifar10"), [*small, *more])
    compare_with_bare_step("32 x 32, nano4, batch 32", tiny, photos(2000, 32))


def compare_with_bare_step(
    title: str, config: TrainConfig, source: Dataset | None
) -> None:
    loops = []
    bares = []
    for _ in range(ROUNDS):
        loops.append(loop_seconds(config, source))
        bares.append(bare_seconds(config, source, 200))
    overheads = []
    for loop, bare in zip(loops, bares, strict=True):
        overheads.append(100 * (loop / bare - 1))
    low, median, high = quartiles(sorted(overheads))
    print(
        f"{title:28} loop {1e3 * statistics.median(loops):.2f} ms, "
        f"bare step {1e3 * statistics.median(bares):.2f} ms, "
        f"overhead {median:.1f} % [{low:.1f}, {high:.1f}]"
    )


def loop_seconds(config: TrainConfig, source: Dataset | None) -> float:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder), source=source, report=rows.append)
    # From the second line on: the first holds the start of the workers.
    timed = [row for row in rows if row["kind"] == "train"][1:]
    return sum(row["seconds"] for row in timed) / (50 * len(timed))


def bare_seconds(config: TrainConfig, source: Dataset | None, steps: int) -> float:
    """Time a step in plain PyTorch, on one batch that is there already."""
    torch.set_num_threads(1)
    run = prepare(config, source)
    model = run.model.train()
    optimizer = build_optimizer(model, config.optim)
    batch = run.batches()[0]
    images = run.preprocess.normalize(batch.images)
    smoothing = config.train.label_smoothing
    clip_norm = config.optim.clip_norm or 1e9
    start = time.perf_counter()
    for step in range(steps):
        # As in the loop, the first 50 steps are not counted.
        if step == 50:
            start = time.perf_counter()
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
    return (time.perf_counter() - start) / (steps - 50)


def compare_saves() -> None:
    """Compare 12 steps with and without a save after every third.

    S/16 with AdamW and an average (a state of 300 MB), batch 8.
    """
    steps = 12
    every = 3
    settings = [
        "model.name=mixer_s16",
        "augment.crop=none",
        "data.val_fraction=0",
        "train.batch_size=8",
        f"train.steps={steps}",
        "train.ema=0.999",
        "train.device=cpu",
        f"train.threads={THREADS}",
        "train.eval_every_epochs=1000",
    ]
    plain = override(get_recipe("photos"), settings)
    saving = override(plain, [f"train.save_every_steps={every}"])
    source = photos(64)
    extra = []
    step_seconds = []
    for _ in range(ROUNDS):
        without = run_seconds(plain, source)
        with_saves = run_seconds(saving, source)
        # Both save at the end.
        saves = steps // every - 1
        extra.append((with_saves - without) / saves)
        step_seconds.append(without / steps)
    low, median, high = quartiles(sorted(extra))
    step = statistics.median(step_seconds)
    # In per cent, at one save per 100 steps.
    share = 100 * median / (100 * step)
    print(
        f"a save costs {median:.2f} s [{low:.2f}, {high:.2f}] of {step:.2f} s per step: "
        f"{share:.2f} % of the wall time at one save per 100 steps"
    )


def run_seconds(config: TrainConfig, source: Dataset) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train(config, Path(folder), source=source)
        return time.perf_counter() - start


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return low, median, high


if __name__ == "__main__":
    questions = {"step": compare_steps, "loop": compare_loop, "save": compare_saves}
    if len(sys.argv) != 2 or sys.argv[1] not in questions:
        sys.exit(__doc__)
    machine = platform.processor() or platform.machine()
    cores = f"{os.cpu_count()} cores"
    print(f"torch {torch.__version__}, {machine}, {cores}, n = {ROUNDS}")
    questions[sys.argv[1]]()
