"""`mlp-mixer resize`: weights for another image size or patch size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Input, Key, OverwriteFile, parse_size


def resize(
    source: Input,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")
    ],
    image_size: Annotated[
        str, typer.Option(help="HxW in pixels, such as 448 or 224x320.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="block_diagonal: exact, for whole multiples; interpolate: any size, "
            "same width."
        ),
    ] = "block_diagonal",
    patch_size: Annotated[
        int | None, typer.Option(help="Another patch side, in pixels.")
    ] = None,
    key: Key = None,
    overwrite: OverwriteFile = False,
) -> int:
    """Change the image size or patch size of weights.

    Fine-tune the result to profit from it.
    """
    from ..models.cost import cost
    from ..weights.resize import resize_file

    config = resize_file(
        source,
        out,
        parse_size(image_size),
        method=method,  # type: ignore[arg-type] # it refuses an unknown one
        patch_size=patch_size,
        key=key,
        overwrite=overwrite,
    )
    height, width = config.image_size
    print(
        f"{out}: {height}x{width} in patches of {config.patch_size}, "
        f"{cost(config).params:,} parameters"
    )
    return 0
