"""`mlp-mixer data`: look at a data set, find what is wrong with it, or write it as
shards.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..check.folder import Features

data_app = typer.Typer(
    no_args_is_help=True,
    help="Look at data sets, check them, and write them as shards.",
)

_QUIET_SECONDS = 15.0  # between two plain lines


@data_app.callback()
def group() -> None:
    """Look at data sets, check them, and write them as shards."""


@data_app.command()
def sample(
    source: Annotated[
        str,
        typer.Argument(
            help="digits, fashion_mnist:PATH, cifar10:PATH, folder:PATH, ..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
) -> int:
    """Write some test images of a source as PNG files, named by their class."""
    import numpy as np
    from PIL import Image

    from ..data import open_dataset
    from ..files import atomic_file, make_folder

    opened = open_dataset(source)
    images = opened.test if opened.test is not None else opened.train
    make_folder(out)
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    for index in chosen:
        name = images.classes[int(images.labels[index])].replace("/", "_")
        with atomic_file(out / f"{name}_{index}.png") as file:
            Image.fromarray(images.image(int(index)).squeeze()).save(file, format="PNG")
    print(f"wrote {len(chosen)} test images of {source} to {out}")
    return 0


@data_app.command()
def shard(
    source: Annotated[
        str, typer.Argument(help="folder:PATH, imagenet:PATH, hf:NAME, cifar10, ...")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A new folder, or what a stopped run left."),
    ],
    shard_size: Annotated[
        str, typer.Option(help="About how large a shard should be.")
    ] = "256MB",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads; one per core by default, up to 16."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the order of the training images in the shards.")
    ] = 0,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out and list what cannot be decoded."),
    ] = False,
) -> int:
    """Write a data set as tar shards with an index; after a stop, the same command goes
    on.

    Image files are copied as they are, arrays become PNG. Then `shards:OUT` is the same
    data set.
    """
    from ..data import open_dataset
    from ..data.shard_writer import write_shards
    from ..data.shards import parse_bytes

    size = parse_bytes(shard_size)
    threads = workers or min(16, os.cpu_count() or 1)
    opened = open_dataset(source)
    try:
        with _progress() as report:
            done = write_shards(
                opened,
                out,
                shard_bytes=size,
                seed=seed,
                workers=threads,
                skip_bad=skip_bad,
                report=report,
            )
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise
    for name, reason in done.left_out.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    if done.left_out:
        print(
            f"{len(done.left_out):,} images could not be decoded and were left out",
            file=sys.stderr,
        )
    counts = " + ".join(f"{count:,} {split}" for split, count in done.images.items())
    print(f"{counts} images in {done.shards:,} shards: use them as shards:{out}")
    return 1 if done.left_out else 0


@data_app.command()
def check(
    folder: Annotated[
        Path,
        typer.Argument(
            help="With a sub folder of images per class, or with train, val and test."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="All findings on stdout, for programs.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A page with pictures, or a folder for page and JSON."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Move what is bad into FOLDER.set-aside.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Put back what --fix has moved.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per core by default.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint to judge by which labels look wrong."),
    ] = None,
) -> int:
    """Decode every picture of a folder and find what would spoil a training run.

    Exit code 1 where there are errors (not warnings) that --fix did not set aside.
    """
    from ..check.folder import SEVERITIES, check_folder
    from ..check.quarantine import place_for, put_back, set_aside
    from ..errors import UserError
    from ..files import write_text
    from ..inference.answers import escaped

    if undo and fix:
        raise UserError("--fix and --undo contradict each other: give one of them")
    if undo:
        count, blocked = put_back(folder)
        for name in blocked:
            print(
                f"left aside: {_shown(name)} (something else has its place)",
                file=sys.stderr,
            )
        print(f"put back {count:,} files")
        return 1 if blocked else 0
    features = _features(model) if model else None
    with _progress() as report:
        found = check_folder(folder, workers=workers, features=features, report=report)
    result = found.to_dict()
    if out is not None:
        from ..check.page import write_check_page  # it loads torch

        page = write_check_page(
            found, out if out.suffix == ".html" else out / "check.html"
        )
        if page != out:
            write_text(
                out / "check.json",
                escaped(json.dumps(result, indent=2, ensure_ascii=False)) + "\n",
            )
    moved = (
        set_aside(folder, [finding.path for finding in found.findings if finding.move])
        if fix
        else 0
    )
    left = sum(
        finding.severity == "error" and not (fix and finding.move)
        for finding in found.findings
    )
    if as_json:
        print(
            escaped(
                json.dumps({**result, "moved": moved}, indent=2, ensure_ascii=False)
            )
        )
        return 1 if left else 0
    for finding in found.findings:
        if finding.severity != "note":
            print(
                f"{finding.severity:8}{finding.kind:20}{_shown(finding.path or '.')}: {_shown(finding.message)}"
            )
    counts = ", ".join(
        f"{result[f'{severity}s']:,} {severity}s" for severity in SEVERITIES
    )
    print(
        f"{len(found.pictures):,} pictures in {sum(map(bool, result['classes'])):,} classes: {counts}"
    )
    if out is not None:
        print(f"page: {page}")
    if moved:
        print(f"moved {moved:,} files to {place_for(folder)}: --undo puts them back")
    return 1 if left else 0


def _features(model: str) -> Features:
    from ..inference.predictor import Failure, Predictor

    predictor = Predictor(model)  # before the long work: it may be refused
    return lambda paths: (
        None if isinstance(x, Failure) else x.values["pre_logits"]
        for x in predictor.features(paths)
    )


def _shown(text: str) -> str:
    """Without what would break the line or steer the terminal."""
    return "".join(
        letter if letter.isprintable() else repr(letter)[1:-1] for letter in text
    )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What it yields is told how many of how many: a bar on a terminal, now and then a
    line elsewhere.
    """
    from rich import progress as bars

    from .console import stderr

    console = stderr()
    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("images"),
        bars.TimeRemainingColumn(),
    )
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        bar.update(task, completed=done, total=total)
        if not console.is_terminal and (
            done == total or time.monotonic() - last > _QUIET_SECONDS
        ):
            last = time.monotonic()
            console.print(f"{done:,} of {total:,} images", soft_wrap=True)

    with bars.Progress(
        *columns, console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("shards", total=None)
        yield report
