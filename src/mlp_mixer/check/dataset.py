"""Find what is wrong with any dataset that training takes: `check_dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.image_set import FileSet, ImageSet
from ..data.layout import FolderFile, Layout
from ..data.registry import folder_of, read_splits
from ..errors import UserError
from .findings import Check, Finding, Picture
from .folder import check_folder, conclude, examine_all
from .labels import Features
from .picture import shown, squeeze

Report = Callable[[int, int], None]


def check_dataset(
    spec: str,
    *,
    workers: int | None = None,
    features: Features | None = None,
    report: Report = lambda done, total: None,
) -> Check:
    """Decode every picture of a dataset, and compare.

    Args:
        spec: As `open_dataset` takes it: a folder, a list, an .npz file, shards, a name.
        workers: Processes; one per core by default.
        features: As of `check_folder`; only for pictures in files of their own.
        report: Is told how many pictures of how many are done.

    Returns:
        The pictures, and what is wrong, errors first.

    Raises:
        UserError: There is no such dataset, or it is refused as training would.
    """
    folder = folder_of(spec)
    if folder is not None:
        return check_folder(folder, workers=workers, features=features, report=report)
    splits = read_splits(spec)
    first = next(iter(splits.values()))
    if isinstance(first, FileSet):
        layout = Layout(first.root)
        _describe(layout, splits)
        findings, pictures = examine_all(
            layout.root,
            layout.files,
            workers,
            report,
            by_name=False,
            channels=first.channels,
        )
    else:
        layout = Layout(Path(spec))
        _describe(layout, splits)
        features = None
        findings, pictures = _look_at_all(splits, layout.files, report)
    if first.passed_over:
        message = f"has what is passed over: {first.passed_over}"
        findings.append(Finding("passed-over", "", message))
    check = conclude(layout, findings, pictures, features)
    return replace(check, in_files=isinstance(first, FileSet))


def _describe(layout: Layout, splits: Mapping[str, ImageSet]) -> None:
    """List the images of all splits, and their classes."""
    for split, images in splits.items():
        for index in range(len(images)):
            label = images.label_text(index)
            layout.files.append(FolderFile(images.name(index), split, label))
        # With several labels per image there is no folder, and no class, of each.
        if images.targets is None:
            for number in np.unique(images.labels):
                label = images.classes[number]
                layout.classes[f"{split}/{label}"] = FolderFile("", split, label)


def _look_at_all(
    splits: Mapping[str, ImageSet], files: Sequence[FolderFile], report: Report
) -> tuple[list[Finding], list[Picture]]:
    """Look at images that lie in arrays, tars or tables."""
    findings = []
    pictures = []
    places = iter(files)
    done = 0
    for images in splits.values():
        for index in range(len(images)):
            file = next(places)
            try:
                pictures.append(_picture(file, images.image(index)))
            except UserError as error:
                findings.append(Finding("damaged", file.path, str(error)))
            done += 1
            report(done, len(files))
    return findings, pictures


def _picture(file: FolderFile, pixels: NDArray[np.uint8]) -> Picture:
    content = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    height, width, channels = pixels.shape
    return Picture(
        path=file.path,
        split=file.split,
        label=file.label,
        height=height,
        width=width,
        mode={1: "L", 3: "RGB"}.get(channels, f"{channels} bands"),
        content=content,
        pixels=content,
        tiny=squeeze(Image.fromarray(shown(pixels))),
    )
