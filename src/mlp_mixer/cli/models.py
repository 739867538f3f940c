"""`mlp-mixer models`: the architectures and their cost, or the known weights."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated, Any

import typer

from . import complete
from .arguments import Json
from .console import print_json, print_table

_NARROW = 110  # columns of a terminal, below which less is shown

_ABOUT_COSTS = """
GMACs: multiply-accumulates of all matrix products, in 1e9; twice that are FLOPs.
mmpretrain: as its get_flops counts (no head; norms, stem bias and pooling added).
fvcore: as timm's tables count (5 per norm element added).
MiB: activations that a training step keeps for one image in fp32."""

_ABOUT_WEIGHTS = """
top-1: published accuracy on ImageNet-1k in percent, measured by others.
MiB: size of the file. here: downloaded, or bundled with the package.
`--json` adds sources, other names, and what is in doubt."""


def models(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Shell pattern of names, such as 'mixer_b*'.",
            autocompletion=complete.models,
        ),
    ] = "*",
    image_size: Annotated[
        int | None,
        typer.Option(help="Count at this side instead of the variant's own."),
    ] = None,
    classes: Annotated[int, typer.Option(help="Classes of the head.")] = 1000,
    weights: Annotated[
        bool,
        typer.Option("--weights", help="List weights instead, by any of their names."),
    ] = False,
    as_json: Json = False,
) -> int:
    """List architectures with their parameters and multiply-accumulates, or weights.

    Multiply-accumulates are counted in each of the conventions that people quote.
    """
    from ..errors import UserError

    # Before models are imported: names of weights need no torch.
    if weights:
        if image_size is not None or classes != 1000:
            raise UserError(
                "--image-size and --classes belong to architectures; leave them out "
                "beside --weights"
            )
        return _list_weights(pattern, as_json)

    from ..models import variants

    names = variants(pattern)
    if not names:
        raise UserError(f"no model matches {pattern!r}; `mlp-mixer models` lists all")
    rows = [_row(name, image_size, classes) for name in names]
    if as_json:
        print_json(rows)
    else:
        _print_costs(rows)
    return 0


def _row(name: str, image_size: int | None, classes: int) -> dict[str, Any]:
    from ..models import cost, model_config

    config = model_config(name, num_classes=classes, image_size=image_size)
    counted = cost(config)
    return {
        "name": name,
        "image_size": list(config.image_size),
        "patch_size": config.patch_size,
        "params": counted.params,
        "params_without_head": counted.params_without_head,
        "gmacs": round(counted.gmacs, 6),
        "gmacs_mmpretrain": round(counted.gmacs_mmpretrain, 6),
        "gmacs_fvcore": round(counted.gmacs_fvcore, 6),
        "activation_mib": round(counted.activation_bytes() / 2**20, 2),
    }


def _print_costs(rows: list[dict[str, Any]]) -> None:
    numbers = ("image", "patch", "params", "GMACs", "mmpretrain", "fvcore", "MiB")
    texts = []
    for row in rows:
        side = "x".join(map(str, row["image_size"]))
        gmacs = [row["gmacs"], row["gmacs_mmpretrain"], row["gmacs_fvcore"]]
        texts.append(
            (
                row["name"],
                side,
                str(row["patch_size"]),
                f"{row['params']:,}",
                *(f"{count:.3f}" for count in gmacs),
                f"{row['activation_mib']:,.1f}",
            )
        )
    print_table({"name": "left"} | dict.fromkeys(numbers, "right"), texts)
    print(_ABOUT_COSTS)


def _list_weights(pattern: str, as_json: bool) -> int:
    from ..config import to_dict
    from ..errors import UserError
    from ..weights.catalog import CATALOG, START_HERE, cached_path, list_models

    names = list_models(pattern, weights=True)
    if not names:
        raise UserError(
            f"no published weights match {pattern!r}; `mlp-mixer models --weights` "
            "lists all"
        )
    rows = []
    for name in names:
        record = CATALOG[name]
        cached = cached_path(record)
        facts = {"cached": cached is not None, "start_here": START_HERE.get(name)}
        row = to_dict(record) | facts
        # Of a file that is here the size is known, whoever published it.
        if record.mib is None and cached is not None:
            row["mib"] = round(cached.stat().st_size / 2**20, 2)
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        _print_weights(rows)
    return 0


def _print_weights(rows: list[dict[str, Any]]) -> None:
    headings = {
        "name": "left",
        "start": "left",
        "model": "left",
        "classes": "right",
        "top-1": "right",
        "MiB": "right",
        "licence": "left",
        "here": "left",
        "trained on": "left",
    }
    # The names must stay whole, so a narrow terminal gets fewer columns.
    if sys.stdout.isatty() and shutil.get_terminal_size().columns < _NARROW:
        for title in ("model", "MiB", "licence"):
            del headings[title]
    texts = []
    for row in rows:
        values = {
            "name": row["name"],
            "start": "*" if row["start_here"] else "",
            "model": row["architecture"],
            "classes": f"{row['num_classes']:,}",
            "top-1": "-" if row["top1"] is None else f"{row['top1']:.2f}",
            "MiB": "-" if row["mib"] is None else f"{row['mib']:.2f}",
            "licence": row["licence"],
            "here": "yes" if row["cached"] else "no",
            # Evidence and doubts follow the first semicolon.
            "trained on": row["trained_on"].partition(";")[0],
        }
        texts.append(tuple(values[title] for title in headings))
    print_table(headings, texts)
    advised = [row for row in rows if row["start_here"]]
    if advised:
        print("\n* start here:")
    for row in advised:
        print(f"  {row['name']}: {row['start_here']}")
    print(_ABOUT_WEIGHTS)
