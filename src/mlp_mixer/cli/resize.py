"""`mlp-mixer resize`: weights for another image size or patch size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from . import complete


def resize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A file, a folder, or a name (`mlp-mixer models --weights`).",
            autocompletion=complete.weights,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")
    ],
    image_size: Annotated[
        str, typer.Option(help="HxW in pixels, such as 448 or 224x320.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="block_diagonal: exact, for whole multiples; interpolate: any size, no wider."
        ),
    ] = "block_diagonal",
    patch_size: Annotated[
        int | None, typer.Option(help="Another patch side, in pixels.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT.")
    ] = False,
) -> int:
    """Change the image size or patch size of weights; fine-tune the result to profit
    from it.
    """
    from ..models.cost import cost
    from ..weights.resize import resize_file
    from .convert import parse_size

    chosen: Any = method  # resize_file refuses an unknown one
    size = cast("tuple[int, int]", parse_size(image_size))
    config = resize_file(
        source, out, size, method=chosen, patch_size=patch_size, overwrite=overwrite
    )
    height, width = config.image_size
    print(
        f"{out}: {height}x{width} in patches of {config.patch_size}, {cost(config).params:,} parameters"
    )
    return 0
