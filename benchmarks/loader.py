"""Compare our loader of training batches with timm's, on a folder of photos.

    python benchmarks/loader.py --data FOLDER
        [--mosaic 1600x1200] [--interpolation bicubic] [--workers 2]

Both read the same files in the same run, in turns. Both crop at random (8 to 100 % of
the area, ratio 3/4 to 4/3), resize to 224 x 224, flip half of the images and give uint8
batches; timm's are taken before its prefetcher, which normalises.

Printed are medians over rounds with their range. "cpu" is CPU time of all processes for
an image; "busy" is the share of the time in which the worker processes ran, and "busy
or queued" in which they ran or waited for a core that others had, as Linux counts it.

--mosaic makes larger photos from those of FOLDER, side by side at quality 90, as PIL
writes them (4:2:0).
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from timm.data import ImageDataset, create_loader

from mlp_mixer.data.folder import read_folder
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.data.loader import TrainBatches, stream
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Augment

SIZE = 224
AREA = (0.08, 1.0)


def mosaics(
    photos: list[Path], folder: Path, size: tuple[int, int], count: int = 32
) -> list[Path]:
    """Make larger photos, of many small ones each; the same ones every time."""
    generator = random.Random(0)
    made = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        mosaic(photos, size, generator).save(path, quality=90)
        made.append(path)
    return made


def mosaic(
    photos: list[Path], size: tuple[int, int], generator: random.Random
) -> Image.Image:
    """Put photos beside each other in rows until the canvas is full."""
    width, height = size
    canvas = Image.new("RGB", size)
    top = 0
    while top < height:
        left = 0
        heights = []
        while left < width:
            with Image.open(generator.choice(photos)) as tile:
                canvas.paste(tile.convert("RGB"), (left, top))
                left += tile.width
                heights.append(tile.height)
        # The next row covers what is longer than the shortest photo of this one.
        top += min(heights)
    return canvas


def link(photos: list[Path], folder: Path, count: int) -> None:
    """Make a dataset of `count` links to the photos, in two classes.

    Epochs are then long even with few photos.
    """
    for number in range(count):
        photo = photos[number % len(photos)].resolve()
        place = folder / "ab"[number % 2] / f"{number:06d}{photo.suffix.lower()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(photo)


def ours(
    folder: Path,
    images: ImageSet,
    interpolation: Any,
    batch: int,
    steps: int,
    workers: int,
) -> Iterator[Any]:
    augment = Augment(
        crop="inception", area=AREA, flip=True, interpolation=interpolation
    )
    yield from stream(
        TrainBatches(images, Preprocess((SIZE, SIZE)), augment, batch, 0),
        range(steps),
        workers=workers,
    )


def timm(
    folder: Path,
    images: ImageSet,
    interpolation: Any,
    batch: int,
    steps: int,
    workers: int,
) -> Iterator[Any]:
    loader = create_loader(
        ImageDataset(str(folder)),
        (3, SIZE, SIZE),
        batch,
        is_training=True,
        scale=AREA,
        color_jitter=None,
        interpolation=interpolation,
        num_workers=workers,
        persistent_workers=False,
        device=torch.device("cpu"),
    ).loader
    assert len(loader) >= steps
    for _, (pixels, _) in zip(range(steps), loader, strict=False):
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (batch, 3, SIZE, SIZE))
        yield pixels


def scheduled() -> tuple[float, float]:
    """Seconds that the worker processes ran, and that they waited for a core."""
    ran = 0.0
    waited = 0.0
    for child in multiprocessing.active_children():
        # Nanoseconds on a core, and in its queue (Linux: sched-stats).
        words = Path(f"/proc/{child.pid}/schedstat").read_text().split()
        ran += int(words[0]) / 1e9
        waited += int(words[1]) / 1e9
    return ran, waited


def measure(
    batches: Iterator[Any], batch: int, steps: int, workers: int
) -> dict[str, float]:
    """Measure from the second batch to the last but one."""
    # After the first one workers are started, and files are in memory.
    next(batches)
    start = time.perf_counter()
    cpu_before = time.process_time()
    ran_before, waited_before = scheduled()
    for _ in range(steps - 2):
        next(batches)
    wall = time.perf_counter() - start
    cpu = time.process_time() - cpu_before
    ran, waited = scheduled()
    ran -= ran_before
    waited -= waited_before
    # The last one, so that workers end.
    for _ in batches:
        pass
    images = (steps - 2) * batch
    result = {"img/s": images / wall, "cpu ms": 1e3 * (cpu + ran) / images}
    if workers:
        result["busy %"] = 100 * ran / wall / workers
        result["busy or queued %"] = 100 * (ran + waited) / wall / workers
    return result


def differences(images: ImageSet, interpolation: Any, count: int = 300) -> str:
    """Say what scaled decoding changes, in levels of 255, on the crops it changes."""
    scaled = Augment(crop="inception", area=AREA, interpolation=interpolation)
    full = dataclasses.replace(scaled, scaled_decode=False)
    preprocess = Preprocess((SIZE, SIZE))
    epochs = np.arange(count)
    indices = np.arange(count) % len(images)
    crops = []
    for augment in (scaled, full):
        batches = TrainBatches(images, preprocess, augment, 1, 0)
        crops.append(batches.pixels(epochs, indices).int())
    gaps = (crops[0] - crops[1]).abs().flatten(1)
    gaps = gaps[gaps.any(1)]
    if not len(gaps):
        return f"scaled decode: no crop of {count} differs from full decode"
    most = np.quantile(gaps.numpy(), 0.999)
    return (
        f"scaled decode: {len(gaps)} of {count} crops differ from full decode, by "
        f"{gaps.float().mean():.2f} levels on average, 99.9 % of values by at most "
        f"{most:.0f}, all by at most {gaps.max()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of photos, read recursively")
    add("--mosaic", help="make photos of this size from them, such as 1600x1200")
    add("--interpolation", choices=["bilinear", "bicubic"], default="bilinear")
    add("--workers", type=int, default=2)
    add("--batch", type=int, default=64)
    add("--steps", type=int, default=24)
    add("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    photos = []
    for path in sorted(options.data.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            photos.append(path)
    with tempfile.TemporaryDirectory() as temporary:
        if options.mosaic:
            width, height = map(int, options.mosaic.split("x"))
            photos = mosaics(photos, Path(temporary), (width, height))
        folder = Path(temporary) / "set"
        link(photos, folder, max(len(photos), options.batch * options.steps))
        report(folder, photos, options)


def report(folder: Path, photos: list[Path], options: argparse.Namespace) -> None:
    print(machine())
    print(f"{described(photos)}; {options}")
    images = read_folder(folder)["train"]
    print(differences(images, options.interpolation))
    for workers in (0, options.workers):
        rounds = in_turns(folder, images, options, workers)
        for name, results in rounds.items():
            columns = []
            for key in results[0]:
                values = sorted(result[key] for result in results)
                columns.append(f"{key} {spread(values)}")
            print(f"{workers} workers, {name}: {', '.join(columns)}")
        print_ratios(rounds, workers)


def machine() -> str:
    """Name the processor, and the versions of what decodes and resizes."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line for line in cpuinfo if line.startswith("model name")]
    processor = models[0].split(":")[1].strip()
    versions = [f"python {platform.python_version()}"]
    for name in ("torch", "timm", "pillow", "torchvision", "mlp-mixer", "simplejpeg"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    versions.append(f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}")
    load = os.getloadavg()[0]
    cores = f"{os.cpu_count()} cores, load {load:.1f}"
    return f"{processor}, {cores}; {' '.join(versions)}"


def described(photos: list[Path]) -> str:
    """Say how many photos there are, and how large."""
    sizes = []
    for photo in photos:
        with Image.open(photo) as image:
            sizes.append(image.size)
    width = statistics.median(width for width, _ in sizes)
    height = statistics.median(height for _, height in sizes)
    kilobytes = statistics.mean(photo.stat().st_size for photo in photos) / 1e3
    median = f"median {width:.0f} x {height:.0f}"
    return f"{len(photos)} photos, {median}, mean {kilobytes:.0f} kB"


def in_turns(
    folder: Path, images: ImageSet, options: argparse.Namespace, workers: int
) -> dict[str, list[dict[str, float]]]:
    """Measure both loaders in rounds, so that both see the same machine."""
    rounds: dict[str, list[dict[str, float]]] = {"timm": [], "ours": []}
    shape = (images, options.interpolation, options.batch, options.steps)
    for _ in range(options.rounds):
        for name, loader in (("timm", timm), ("ours", ours)):
            batches = loader(folder, *shape, workers)
            result = measure(batches, options.batch, options.steps, workers)
            rounds[name].append(result)
    return rounds


def print_ratios(rounds: dict[str, list[dict[str, float]]], workers: int) -> None:
    """Print our speed in units of timm's, from quotients within each round."""
    labels = {"cpu ms": "images per CPU second", "img/s": "images per second"}
    for key, label in labels.items():
        ratios = []
        for theirs, mine in zip(rounds["timm"], rounds["ours"], strict=True):
            ratio = theirs[key] / mine[key]
            # Less time is better, and more images.
            ratios.append(ratio if key == "cpu ms" else 1 / ratio)
        print(f"{workers} workers, ours / timm in {label}: {spread(sorted(ratios))}")


def spread(values: list[float]) -> str:
    """Format the median and the range of sorted values."""
    return f"{statistics.median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})"


if __name__ == "__main__":
    main()
