"""`mlp-mixer models`: the architectures and what they cost, or the weights in the
package and of others.
"""

from __future__ import annotations

import shutil
import sys
from typing import Annotated, Any

import typer

from . import complete
from .console import print_json, print_table


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
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """List architectures with parameters and multiply-accumulates in the conventions
    people quote, or weights.
    """
    from ..errors import UserError
    from ..models import variants

    if weights:
        if image_size is not None or classes != 1000:
            raise UserError(
                "--image-size and --classes belong to architectures; leave them out beside --weights"
            )
        return _list_weights(pattern, as_json)
    names = variants(pattern)
    if not names:
        raise UserError(f"no model matches {pattern!r}; `mlp-mixer models` lists all")
    rows = [_row(name, image_size, classes) for name in names]
    if as_json:
        print_json(rows)
    else:
        _print(rows)
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


def _print(rows: list[dict[str, Any]]) -> None:
    numbers = ("image", "patch", "params", "GMACs", "mmpretrain", "fvcore", "MiB")
    print_table(
        {"name": "left"} | dict.fromkeys(numbers, "right"),
        [
            (
                row["name"],
                "x".join(map(str, row["image_size"])),
                str(row["patch_size"]),
                f"{row['params']:,}",
                f"{row['gmacs']:.3f}",
                f"{row['gmacs_mmpretrain']:.3f}",
                f"{row['gmacs_fvcore']:.3f}",
                f"{row['activation_mib']:,.1f}",
            )
            for row in rows
        ],
    )
    print(
        "\nGMACs: multiply-accumulates of all matrix products, in 1e9; twice that are FLOPs. mmpretrain: as its\n"
        "get_flops counts (no head; norms, stem bias and pooling added). fvcore: as timm's tables count (5 per\n"
        "norm element added). MiB: activations that a training step keeps for one image in fp32."
    )


def _list_weights(pattern: str, as_json: bool) -> int:
    from ..config import to_dict
    from ..errors import UserError
    from ..weights.catalog import CATALOG, cached_path, list_models

    records = [CATALOG[name] for name in list_models(pattern, weights=True)]
    if not records:
        raise UserError(
            f"no published weights match {pattern!r}; `mlp-mixer models --weights` lists all"
        )
    rows = [
        to_dict(record) | {"cached": cached_path(record) is not None}
        for record in records
    ]
    if as_json:
        print_json(rows)
    else:
        _print_weights(rows)
    return 0


def _print_weights(rows: list[dict[str, Any]]) -> None:
    table = [
        {
            "name": row["name"],
            "model": row["architecture"],
            "classes": f"{row['num_classes']:,}",
            "top-1": "-" if row["top1"] is None else f"{row['top1']:.2f}",
            "MiB": "-" if row["mib"] is None else f"{row['mib']:.2f}",
            "licence": row["licence"],
            "here": "yes" if row["cached"] else "no",
            "trained on": row["trained_on"].partition(";")[0],
        }
        for row in rows
    ]
    narrow = (
        sys.stdout.isatty() and shutil.get_terminal_size().columns < 110
    )  # it must not cut the names
    headings = [
        title
        for title in table[0]
        if not (narrow and title in ("model", "MiB", "licence"))
    ]
    print_table(
        {
            title: "right" if title in ("classes", "top-1", "MiB") else "left"
            for title in headings
        },
        [tuple(row[title] for title in headings) for row in table],
    )
    print(
        "\ntop-1: published accuracy on ImageNet-1k in percent, measured by others. MiB: published size of the file.\n"
        "here: downloaded, or in the package. `--json` adds sources, other names, and what is in doubt."
    )
