"""Training batches from a folder of photos: our loader and timm's, on the same files in
the same run, interleaved.

    python benchmarks/loader.py --data FOLDER [--mosaic 1600x1200] [--interpolation
    bicubic] [--workers 2]

Both crop at random (8 to 100 % of the area, ratio 3/4 to 4/3), resize to 224 x 224,
flip half of the images and give uint8 batches; timm's are taken before its prefetcher,
which normalises. Reported are medians over rounds with their range. "cpu" is CPU time
of all processes per image; "busy" is the part of the time in which the worker processes
ran, and "busy or queued" in which they ran or waited for a core that others had, as
Linux counts it.

--mosaic makes larger photos from those of FOLDER, side by side at quality 90, as PIL
writes them (4:2:0).
"""

from __future__ import annotations

import argparse
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
    """Larger photos, of many small ones each; the same ones every time."""
    chance = random.Random(0)
    made = []
    for number in range(count):
        canvas = Image.new("RGB", size)
        top = 0
        while top < size[1]:
            left = 0
            heights = []
            while left < size[0]:
                with Image.open(chance.choice(photos)) as tile:
                    canvas.paste(tile.convert("RGB"), (left, top))
                    left = left + tile.width
                    heights = [*heights, tile.height]
            top += min(heights)
        made.append(folder / f"{number}.jpg")
        canvas.save(made[-1], quality=90)
    return made


def linked(photos: list[Path], folder: Path, count: int) -> None:
    """A data set of `count` links to the photos, in two classes, so that epochs of few
    photos are long.
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
    times = [
        [
            int(word) / 1e9
            for word in Path(f"/proc/{child.pid}/schedstat").read_text().split()[:2]
        ]
        for child in multiprocessing.active_children()
    ]
    return sum(ran for ran, _ in times), sum(waited for _, waited in times)


def measure(
    batches: Iterator[Any], batch: int, steps: int, workers: int
) -> dict[str, float]:
    """From the first batch on, when workers are started and files are in memory."""
    next(batches)
    start = time.perf_counter()
    cpu = time.process_time()
    (ran, waited) = scheduled()
    for _ in range(steps - 2):
        next(batches)
    wall = time.perf_counter() - start
    cpu = time.process_time() - cpu
    after = scheduled()
    ran = after[0] - ran
    waited = after[1] - waited
    for _ in batches:  # the last one, so that workers end
        pass
    images = (steps - 2) * batch
    result = {"img/s": images / wall, "cpu ms": 1e3 * (cpu + ran) / images}
    if workers:
        result |= {
            "busy %": 100 * ran / wall / workers,
            "busy or queued %": 100 * (ran + waited) / wall / workers,
        }
    return result


def differences(images: ImageSet, interpolation: Any, count: int = 300) -> str:
    """What scaled decoding changes, in levels of 255, on the crops that it changes."""
    epochs = np.arange(count)
    indices = np.arange(count) % len(images)
    augment = Augment(crop="inception", area=AREA, interpolation=interpolation)
    full = Augment(
        crop="inception", area=AREA, interpolation=interpolation, scaled_decode=False
    )
    a, b = (
        TrainBatches(images, Preprocess((SIZE, SIZE)), how, 1, 0).pixels(
            epochs, indices
        )
        for how in (augment, full)
    )
    gaps = (a.int() - b.int()).abs().flatten(1)
    gaps = gaps[gaps.any(1)]
    if not len(gaps):
        return f"scaled decode: none of {count} crops differs from full decode"
    return (
        f"scaled decode: {len(gaps)} of {count} crops differ from full decode, by {gaps.float().mean():.2f} levels on "
        f"average, 99.9 % of values by at most {np.quantile(gaps.numpy(), 0.999):.0f}, all by at most {gaps.max()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of photos, with or without sub folders",
    )
    parser.add_argument(
        "--mosaic", help="make photos of this size from them, such as 1600x1200"
    )
    parser.add_argument(
        "--interpolation", choices=["bilinear", "bicubic"], default="bilinear"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    photos = sorted(
        path
        for path in options.data.rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg")
    )
    with tempfile.TemporaryDirectory() as temporary:
        if options.mosaic:
            width, height = map(int, options.mosaic.split("x"))
            photos = mosaics(photos, Path(temporary), (width, height))
        folder = Path(temporary) / "set"
        linked(photos, folder, max(len(photos), options.batch * options.steps))
        report(folder, photos, options)


def report(folder: Path, photos: list[Path], options: argparse.Namespace) -> None:
    versions = {
        name: metadata.version(name)
        for name in ("torch", "timm", "pillow", "torchvision", "mlp-mixer")
    }
    try:
        versions["simplejpeg"] = metadata.version("simplejpeg")
    except metadata.PackageNotFoundError:
        versions["simplejpeg"] = "absent"
    models = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    print(
        f"{models[0].split(':')[1].strip()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python",
        end=" ",
    )
    turbo = features.version_feature("libjpeg_turbo")
    print(
        platform.python_version(),
        *(" ".join(pair) for pair in versions.items()),
        f"libjpeg-turbo {turbo}",
    )
    sizes = []
    for photo in photos:
        with Image.open(photo) as image:
            sizes.append(image.size)
    width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
    kilobytes = statistics.mean(photo.stat().st_size for photo in photos) / 1e3
    print(
        f"{len(photos)} photos, median {width:.0f} x {height:.0f}, mean {kilobytes:.0f} kB; {options}"
    )
    images = read_folder(folder)["train"]
    print(differences(images, options.interpolation))
    shape = images, options.interpolation, options.batch, options.steps
    for workers in (0, options.workers):
        rounds: dict[str, list[dict[str, float]]] = {"timm": [], "ours": []}
        for _ in range(options.rounds):
            for name, loader in (("timm", timm), ("ours", ours)):
                batches = loader(folder, *shape, workers)
                rounds[name].append(
                    measure(batches, options.batch, options.steps, workers)
                )
        for name, results in rounds.items():
            columns = {
                key: sorted(result[key] for result in results) for key in results[0]
            }
            middle = {
                key: f"{statistics.median(v):.2f} ({v[0]:.2f}-{v[-1]:.2f})"
                for key, v in columns.items()
            }
            print(
                f"{workers} workers, {name}:",
                ", ".join(f"{key} {value}" for key, value in middle.items()),
            )
        for key in ("cpu ms", "img/s"):
            ratios = [
                a[key] / b[key]
                for a, b in zip(rounds["timm"], rounds["ours"], strict=True)
            ]
            ratios = sorted(ratio if key == "cpu ms" else 1 / ratio for ratio in ratios)
            label = "images per CPU second" if key == "cpu ms" else "images per second"
            middle_ratio = statistics.median(ratios)
            print(
                f"{workers} workers, ours / timm in {label}: {middle_ratio:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
