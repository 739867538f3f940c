"""`mlp-mixer data`: look at a dataset, find what is wrong with it, or write shards."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Json, OverwriteOut, refuse_beside
from .console import print_json
from .streams import printable

if TYPE_CHECKING:
    from ..check.findings import Check
    from ..check.labels import Features

_MOST_THREADS = 16

data_app = typer.Typer(
    no_args_is_help=True,
    help="Look at datasets, check them, and write them as shards.",
)


@data_app.callback()
def group() -> None:
    """Look at datasets, check them, and write them as shards."""


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
    seed: Annotated[int, typer.Option(help="Each draws other images.")] = 0,
    overwrite: OverwriteOut = False,
) -> int:
    """Write some test images of a dataset as PNG files, named by their class.

    Images of other channels than gray and RGB become .npy files, which predict takes.
    """
    from ..data import open_dataset
    from ..data.sample import write_sample

    done = write_sample(
        open_dataset(source), out, count=count, seed=seed, overwrite=overwrite
    )
    print(f"wrote {len(done.paths)} {done.split} images of {source} to {out}")
    return 0


@data_app.command()
def shard(
    source: Annotated[
        str, typer.Argument(help="folder:PATH, imagenet:PATH, hf:NAME, cifar10, ...")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="A new folder, or that of a stopped run."),
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
    """Write a dataset as tar shards with an index.

    After a stop the same command continues. Image files are copied as they are, arrays
    become PNG. Then `shards:OUT` is the same dataset.
    """
    from ..data import open_dataset
    from ..data.shard_writer import write_shards
    from ..data.shards import parse_bytes
    from .progress import counted

    size = parse_bytes(shard_size)
    threads = workers or min(_MOST_THREADS, os.cpu_count() or 1)
    opened = open_dataset(source)
    try:
        with counted("images") as report:
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
        # A conversion of ImageNet takes an hour: say that nothing is lost.
        print("stopped; the same command continues", file=sys.stderr)
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
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures, a list, or any other dataset, as --data takes it."
        ),
    ],
    as_json: Json = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A page with pictures, or a folder for page and JSON."),
    ] = None,
    overwrite: OverwriteOut = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Move bad files into FOLDER.set-aside.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Move back what --fix has moved.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one per core by default.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint whose features show which labels look wrong."),
    ] = None,
) -> int:
    """Decode every picture of a dataset and find what would spoil a training run.

    The exit code is 1 if there are errors (not warnings) that --fix did not set aside.
    """
    from ..check.dataset import check_dataset
    from ..check.quarantine import set_aside
    from ..data.registry import folder_of
    from ..errors import UserError
    from ..files import refuse_to_replace
    from .next_steps import after_check, print_next
    from .progress import counted

    if undo and fix:
        raise UserError("--fix and --undo contradict each other: give one of them")
    folder = folder_of(source)
    if (undo or fix) and folder is None:
        raise UserError(
            f"--fix and --undo move the files of a folder, and {source!r} is none: leave "
            "them out"
        )
    if undo and folder is not None:
        refuse_beside(context, "--undo", {"source", "undo", "as_json", "workers"})
        return _put_back(folder, as_json)
    # Before the long work, because a place or a checkpoint may be refused.
    if out is not None and not overwrite:
        refuse_to_replace(*_pages(out))
    features = _features(model) if model else None
    with counted("images") as report:
        found = check_dataset(source, workers=workers, features=features, report=report)
    # The page shows the pictures, so it is written before they are moved.
    page = None if out is None else _write_page(found, out)
    movable: list[str] = []
    moved = 0
    if fix and folder is not None:
        movable = found.movable()
        moved = set_aside(folder, movable)
        for path in found.behind_links():
            print(
                f"left as it is: {printable(path)} (it lies behind a link)",
                file=sys.stderr,
            )
    left = 0
    for finding in found.findings:
        is_fixed = finding.path in movable
        left += finding.severity == "error" and not is_fixed
    if as_json:
        print_json({**found.to_dict(), "moved": moved})
    else:
        _print_findings(found, page, moved)
        if not left:
            print_next(after_check(source))
    return 1 if left else 0


def _put_back(folder: Path, as_json: bool) -> int:
    from ..check.quarantine import put_back

    count, blocked = put_back(folder)
    for name in blocked:
        print(
            f"left aside: {printable(name)} (something else has its place)",
            file=sys.stderr,
        )
    if as_json:
        print_json({"put_back": count, "left_aside": blocked})
    else:
        print(f"put back {count:,} files")
    return 1 if blocked else 0


def _features(model: str) -> Features:
    from ..inference import Failure, Predictor

    predictor = Predictor(model)

    def features(paths: Any) -> Any:
        for answer in predictor.features(paths):
            if isinstance(answer, Failure):
                yield None
            else:
                yield answer.values["pre_logits"]

    return features


def _write_page(found: Check, out: Path) -> Path:
    """Write the page; if `out` is a folder, all findings as JSON beside it."""
    # The page draws with the report, which loads torch.
    from ..check.page import write_check_page
    from ..files import write_json

    page, *beside = _pages(out)
    write_check_page(found, page)
    for path in beside:
        write_json(path, found.to_dict())
    return page


def _pages(out: Path) -> tuple[Path, ...]:
    """Return the page that --out asks for; of a folder also the JSON beside it."""
    if out.suffix == ".html":
        return (out,)
    return out / "check.html", out / "check.json"


def _print_findings(found: Check, page: Path | None, moved: int) -> None:
    from ..check.findings import SEVERITIES
    from ..check.quarantine import place_for

    for finding in found.findings:
        # Notes say what is unusual and harmless; the page and the JSON have them.
        if finding.severity != "note":
            place = printable(finding.path or ".")
            message = printable(finding.message)
            print(f"{finding.severity:8}{finding.kind:20}{place}: {message}")
    result = found.to_dict()
    counts = ", ".join(
        f"{result[f'{severity}s']:,} {severity}s" for severity in SEVERITIES
    )
    classes = len(result["classes"])
    print(f"{len(found.pictures):,} pictures in {classes:,} classes: {counts}")
    if page is not None:
        print(f"page: {page}")
    if moved:
        print(
            f"moved {moved:,} files to {place_for(found.root)}: --undo puts them back"
        )
