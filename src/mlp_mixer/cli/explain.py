"""`mlp-mixer explain`: why does a network give this answer?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .arguments import (
    Device,
    Key,
    Labels,
    OverwriteOut,
    introduce_bundled,
    or_bundled,
    split_arguments,
    with_key,
)
from .console import percent


def explain(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] IMAGE",
            autocompletion=complete.weights,
            help="Checkpoint (default: the bundled CIFAR-10 model), then a picture: a "
            "path or a URL.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .png file to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="The training images (digits, folder:PATH, ...): adds the nearest ones."
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
    labels: Labels = None,
    key: Key = None,
    device: Device = "auto",
    overwrite: OverwriteOut = False,
) -> int:
    """Draw which parts of an image support a class.

    Beside them: the best five classes, and the training images that look alike.
    """
    from ..analysis.explain import METHODS, draw, maps, nearest, seen_part, unsure
    from ..analysis.token_units import to_png
    from ..errors import UserError, unknown
    from ..evaluation import eval_split
    from ..files import refuse_to_replace, write_bytes
    from ..images.decode import decode_image
    from ..inference import Predictor
    from ..inference.pictures import fetched
    from ..weights.labels import class_numbers
    from .progress import stages

    if out.suffix.lower() != ".png":
        raise UserError(
            f"the picture is a .png file, got {str(out)!r}; change its ending"
        )
    # It may be the photo itself.
    if not overwrite:
        refuse_to_replace(out)
    if method not in (*METHODS, "both"):
        raise unknown("method", method, (*METHODS, "both"))
    checkpoint, images = split_arguments(paths, None)
    if len(images) != 1:
        raise UserError(
            "one picture is explained at a time, after its weights; got "
            f"{len(images)}: {images}"
        )
    image = images[0]
    source, _ = or_bundled(checkpoint)
    predictor = Predictor(with_key(source, key), device=device, labels=labels)
    if checkpoint is None:
        introduce_bundled(predictor.labels)
    numbers = class_numbers(predictor.labels)
    if name is not None and name not in numbers:
        raise unknown("class", name, numbers)
    answer = predictor(image)
    label = answer.top[0].label if name is None else numbers[name]

    # Decoded once more: the maps are drawn over the pixels that the network saw.
    known = predictor.checkpoint
    pixels = decode_image(fetched(image), channels=known.preprocess.channels)
    x_BCHW = known.preprocess(pixels)[None].to(predictor.device)
    # Neighbours are looked for among the images it learned from, not in a test split.
    near = []
    heat = {}
    with stages() as stage:
        if data:
            trained_on = eval_split(data, known.provenance, "train").images
            shown = stage("training images")
            near = nearest(known, x_BCHW, trained_on, progress=shown)
        for one in METHODS:
            if method in (one, "both"):
                shown = stage(f"steps of {one}")
                heat[one] = maps(predictor.model, x_BCHW, label, one, shown)
    top = [(candidate.name, candidate.score) for candidate in answer.top]
    explained = predictor.labels[label]
    photo = seen_part(pixels, known.preprocess)
    drawn = draw(photo, heat, explained, top, near)
    write_bytes(out, to_png(drawn))
    score = percent(answer.pred_score)
    print(f"{out}: {answer.pred_class} {score}, maps of {explained}")
    if remark := unsure(top):
        print(f"note: {remark}", file=sys.stderr)
    return 0
