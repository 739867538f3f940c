"""`mlp-mixer data`: look at a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets.")


@data_app.callback()
def group() -> None:
    """Look at data sets."""


@data_app.command()
def sample(
    source: Annotated[str, typer.Argument(help="digits, fashion_mnist:PATH, cifar10:PATH, folder:PATH, ...")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
) -> int:
    """Write some test images of a source as PNG files, named by their class."""
    import numpy as np
    from PIL import Image

    from ..data import open_source
    from ..files import atomic_file, make_folder

    opened = open_source(source)
    images = opened.test if opened.test is not None else opened.train
    make_folder(out)
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    for index in chosen:
        name = images.classes[int(images.labels[index])].replace("/", "_")
        with atomic_file(out / f"{name}_{index}.png") as file:
            Image.fromarray(images.image(int(index)).squeeze()).save(file, format="PNG")
    print(f"wrote {len(chosen)} test images of {source} to {out}")
    return 0
