"""`mlp-mixer explain`: why does a network answer so?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .console import percent
from .predict import introduce_box, split_arguments


def explain(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] IMAGE",
            autocompletion=complete.weights,
            help="Weights (none: the small model in the package), then a picture: a path or a URL.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .png file to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="What it was trained on (digits, folder:PATH, ...): adds the nearest images."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--class", help="The class to explain; default: the best."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="occlusion: cover parts of the image; gradient; or both."),
    ] = "both",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
) -> int:
    """Draw what in an image speaks for a class, the best five classes, and the training
    images that look alike.
    """
    from ..analysis.explain import METHODS, draw, maps, nearest
    from ..analysis.token_units import to_png
    from ..devices import pick_device
    from ..errors import UserError, unknown
    from ..evaluation import eval_split
    from ..files import write_bytes
    from ..images.decode import decode_image
    from ..inference.pictures import source
    from ..inference.predictor import Predictor
    from ..weights.catalog import BUNDLED
    from ..weights.labels import class_numbers

    if out.suffix.lower() != ".png":
        raise UserError(
            f"the picture is a .png file, got {str(out)!r}; change its ending"
        )
    if method not in (*METHODS, "both"):
        raise unknown("method", method, (*METHODS, "both"))
    checkpoint, images = split_arguments(paths, None)
    if len(images) != 1:
        raise UserError(
            f"one picture is explained at a time, after its weights; got {len(images)}: {images}"
        )
    (image,) = images
    predictor = Predictor(
        BUNDLED if checkpoint is None else checkpoint, device=str(pick_device(device))
    )
    if checkpoint is None:
        introduce_box(predictor.labels)
    numbers = class_numbers(predictor.labels)
    known = predictor.checkpoint
    if name is not None and name not in numbers:
        raise unknown("class", name, numbers)
    answer = predictor(image)
    label = answer.pred_label if name is None else numbers[name]
    pixels = decode_image(source(image), channels=known.preprocess.channels)
    x_BCHW = known.preprocess(pixels)[None].to(predictor.device)
    near = (
        nearest(known, x_BCHW, eval_split(data, known.provenance, "train").images)
        if data
        else []
    )
    heat = {
        one: maps(predictor.model, x_BCHW, label, one)
        for one in METHODS
        if method in (one, "both")
    }
    top = [(one.name, one.score) for one in answer.top]
    write_bytes(
        out,
        to_png(
            draw(known.preprocess.fit(pixels), heat, predictor.labels[label], top, near)
        ),
    )
    print(
        f"{out}: {answer.pred_class} {percent(answer.pred_score)}, maps of {predictor.labels[label]}"
    )
    return 0
