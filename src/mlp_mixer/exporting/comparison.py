"""Compare an export with torch: on which images, and what is accepted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..data.keys import key_of_file
from ..data.names import is_image_name, is_system_name
from ..data.seen import SeenImages
from ..errors import UserError
from ..files import PathLike
from ..images.decode import decode_image
from ..images.preprocess import Preprocess
from ..weights.labels import class_numbers
from .reload import Array

# At most so many images of a folder are compared, evenly spread over it.
MOST_IMAGES = 256

# For int8: the root mean square of the differences, in units of the standard deviation
# of the logits. Eight bits move logits by about a hundredth of it.
INT8_TOLERANCE = 0.1

# Another order of sums rounds as much as torch's does, and a longer one somewhat more.
_TIMES_ROUNDING = 10

# Goes after statements of Python: runs the script that is the next argument, as if it
# had been started by itself.
_RUN_SCRIPT = (
    "; import runpy, sys; sys.argv.pop(0); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


class CheckImages(NamedTuple):
    """The images on which an export and torch are compared.

    Attributes:
        pixels: uint8 (N, H, W, C), cropped and resized for the network.
        classes: Their classes (N), if their folders are named as the labels; else None.
        described: Where they come from, in words.
        unseen: Positions (M) of those that may judge the accuracy: the network has not
            learnt from them.
    """

    pixels: Array
    classes: Array | None
    described: str
    unseen: Array


def check_images(
    folder: PathLike | None,
    record: Preprocess,
    labels: Sequence[str],
    seen: SeenImages | None = None,
) -> CheckImages:
    """Read the images of a folder, or make some up.

    Args:
        folder: Pictures, best in one folder per class; None for noise and digits.
        record: The preprocessing of the network.
        labels: The names of its classes.
        seen: The images that it has learnt from, if that is known. As many others as
            there are come first.

    Raises:
        UserError: The folder has no images.
    """
    if folder is None:
        made_up = _noise_and_digits(record)
        words = "8 of noise and 8 digits"
        return CheckImages(made_up, None, words, np.arange(len(made_up)))
    # Only the folder's own name is told: the path above it may be private.
    root = Path(folder).resolve()
    files = []
    # As a dataset is read: macOS leaves ._a.jpg beside a.jpg, and it is no picture.
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root).parts
        passed_over = any(map(is_system_name, below))
        if is_image_name(path.name) and path.is_file() and not passed_over:
            files.append(path)
    if not files:
        raise UserError(
            f"there are no images in {str(folder)!r}; give a folder of pictures, best "
            "one folder per class"
        )
    total = len(files)
    files, unseen = _unseen_first(files, seen)
    # Of many the unseen ones, which say how good the export is.
    if unseen >= min(total, MOST_IMAGES):
        files = files[:unseen]
    count = min(len(files), MOST_IMAGES)
    chosen = [files[i * len(files) // count] for i in range(count)]
    told = set(files[:unseen])
    pixels = []
    classes = []
    numbers = class_numbers(labels)
    for path in chosen:
        image = decode_image(path, channels=record.channels)
        pixels.append(record.fit(image))
        # macOS spells an accent as a letter of its own.
        name = unicodedata.normalize("NFC", path.parent.name)
        classes.append(numbers.get(name))
    return CheckImages(
        np.stack(pixels),
        None if None in classes else np.array(classes),
        f"{count} of {total} in {root.name}",
        np.array([i for i, path in enumerate(chosen) if path in told], dtype=int),
    )


def _unseen_first(files: list[Path], seen: SeenImages | None) -> tuple[list[Path], int]:
    """Return the files, those that were not learnt from first, and how many these are."""
    if seen is None:
        return files, len(files)
    keys = np.array([key_of_file(path) for path in files], dtype=np.uint64)
    known = seen.contains(keys)
    order = np.argsort(known, kind="stable")
    return [files[i] for i in order], int((~known).sum())


def _noise_and_digits(record: Preprocess) -> Array:
    """Return 8 images of noise and 8 of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    # Noise alone is alike everywhere; digits have edges and empty areas.
    size = (8, *record.image_size, record.channels)
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    height, width = record.image_size
    digits = []
    for digit in load_digits().images[:8]:
        # Values of 0 to 16, brought to 0 to 254.
        image = Image.fromarray((15.9 * digit).astype(np.uint8))
        digits.append(np.asarray(image.resize((width, height))))
    grey = np.stack(digits)[..., None]
    return np.concatenate([noise, np.broadcast_to(grey, size)])


def run_export(to: str, export: Path, images: Array, setup: str) -> dict[str, Any]:
    """Run an export in a new process, and return what reload.py says of it.

    A new process proves that the export needs nothing that is only in memory here.

    Args:
        to: The kind of export, a key of `TARGETS`.
        export: The file or folder.
        images: Images as the export takes them.
        setup: Statements of Python to run first; "" for none.

    Raises:
        UserError: The export cannot be read or run.
    """
    script = [str(Path(__file__).with_name("reload.py"))]
    if setup:
        script = ["-c", setup + _RUN_SCRIPT, *script]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        # An export that fetched something from the Hub would not be complete.
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "images.npy"
        got = Path(folder) / "answers.npz"
        np.save(given, images)
        # -P: this folder's own modules must not hide those of the runtimes.
        python = [sys.executable, "-P"]
        command = [*python, *script, to, str(export), str(given), str(got)]
        process = subprocess.run(command, env=env, capture_output=True, text=True)
        if process.returncode:
            said = process.stderr.strip() or f"exit code {process.returncode}"
            last_line = said.splitlines()[-1][:300]
            raise UserError(
                f"the export to {to} cannot be read back, so nothing was written: "
                f"{last_line}; try another kind"
            )
        with np.load(got) as found:
            return dict(found)


def check_difference(
    ours: Array,
    theirs: dict[str, Any],
    tolerance: float,
    int8: bool,
    *,
    rounding: float = 0.0,
) -> None:
    """Check that an export answers as torch does.

    Args:
        ours: The logits of torch (N, K).
        theirs: What `run_export` returned.
        tolerance: The largest difference, as in `Target`. With int8 every logit moves,
            so their average is compared with `INT8_TOLERANCE` instead.
        int8: Whether the export computes in int8.
        rounding: How far torch's own logits are from those in double precision. A head
            with large weights on small features has much of it, and no two programs
            can be closer than that.

    Raises:
        UserError: The logits differ by more, or are not numbers.
    """
    difference = np.abs(np.subtract(theirs["logits"], ours, dtype=float))
    if int8:
        measured = np.sqrt(np.mean(difference**2))
        allowed = INT8_TOLERANCE * ours.std()
    else:
        measured = difference.max()
        allowed = tolerance * max(1, np.abs(ours).max())
        allowed = max(allowed, _TIMES_ROUNDING * rounding)
    # "not <=" and not ">": a NaN must not pass.
    if not measured <= allowed:
        advice = "without int8" if int8 else "to another kind"
        raise UserError(
            f"{theirs['runtime']} gives other answers than torch, so nothing was "
            f"written: its logits differ by {measured:.1e} where {allowed:.1e} is "
            f"accepted; export {advice}"
        )


def measures(side: dict[str, Any], ours: Array, images: CheckImages) -> dict[str, Any]:
    """Return what is reported of one side of the comparison.

    Args:
        side: Its logits, times, size in bytes and runtime.
        ours: The logits of torch.
        images: The images that both were given.

    Returns:
        `runtime`; `mib`, its size; `ms_batch_1` and `ms_batch_8`, milliseconds for an
        image; `difference`, the largest of a logit; `same_top1`, the share of images
        with the same answer as torch's; `top1`, the accuracy on the images that the
        network has not learnt from, or None, and `top1_n`, their number.
    """
    best = side["logits"].argmax(1)
    top1 = None
    top1_n = 0
    if images.classes is not None and len(images.unseen):
        hits = best[images.unseen] == images.classes[images.unseen]
        top1 = float(hits.mean())
        top1_n = len(hits)
    ms_batch_1, ms_batch_8 = map(float, side["ms"])
    return {
        "runtime": str(side["runtime"]),
        "mib": side["bytes"] / 2**20,
        "ms_batch_1": ms_batch_1,
        "ms_batch_8": ms_batch_8,
        "difference": float(np.abs(side["logits"] - ours).max()),
        "same_top1": float((best == ours.argmax(1)).mean()),
        "top1": top1,
        "top1_n": top1_n,
    }
