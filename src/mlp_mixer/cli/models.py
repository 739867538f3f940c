"""`mlp-mixer models`: the architectures and what they cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .console import print_json, print_table


def models(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as 'mixer_b*'.")] = "*",
    image_size: Annotated[int | None, typer.Option(help="Count at this side instead of the variant's own.")] = None,
    classes: Annotated[int, typer.Option(help="Classes of the head.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """List architectures with parameters and multiply-accumulates in the conventions people quote."""
    from ..errors import UserError
    from ..models import variants

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
