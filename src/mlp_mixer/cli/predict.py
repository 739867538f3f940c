"""`mlp-mixer predict`: what is on these pictures?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import percent, print_json, print_table

if TYPE_CHECKING:
    from ..predict import Failure, Prediction

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".h5", ".keras")


def predict(
    paths: Annotated[list[str], typer.Argument(metavar="[CHECKPOINT] IMAGE...", help="A checkpoint, then pictures.")],
    model: Annotated[str | None, typer.Option(help="The checkpoint; then every argument is a picture.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates per picture.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Classify pictures. Unreadable ones are listed and make the exit code 1; the others are answered."""
    from ..devices import pick_device
    from ..errors import UserError
    from ..predict import Failure, Predictor

    checkpoint, pictures = split_arguments(paths, model)
    if not pictures:
        raise UserError(f"no pictures given to classify with {checkpoint!r}; add the paths of some")
    predictor = Predictor(checkpoint, device=str(pick_device(device)), top=top)
    answers = list(predictor.predict(pictures))
    if as_json:
        print_json([answer.to_dict() for answer in answers])
    else:
        _print(answers)
    return 1 if any(isinstance(answer, Failure) for answer in answers) else 0


def split_arguments(arguments: list[str], model: str | None) -> tuple[str, list[str]]:
    """The checkpoint and the pictures: the first argument is the checkpoint only if it looks like one."""
    from ..errors import UserError

    if model is not None:
        return model, arguments
    if is_model(arguments[0]):
        return arguments[0], arguments[1:]
    raise UserError(
        f"no checkpoint given: {arguments[0]!r} is neither a file of weights nor the folder of a run; "
        "put one first, or use --model"
    )


def is_model(argument: str) -> bool:
    """A name of the catalog, a file of weights by its suffix, or a folder with a config.json."""
    from ..weights import list_models

    known = argument in list_models() or argument in list_models(weights=True)
    return known or Path(argument).suffix.lower() in WEIGHT_SUFFIXES or (Path(argument) / "config.json").is_file()


def _print(answers: list[Prediction | Failure]) -> None:
    from ..predict import Failure

    good = [answer for answer in answers if not isinstance(answer, Failure)]
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    rows = [
        (
            answer.path,
            answer.pred_class,
            percent(answer.pred_score),
            ", ".join(f"{candidate.name} {percent(candidate.score)}" for candidate in answer.top[1:3]),
        )
        for answer in good
    ]
    if rows:
        print_table({"picture": "left", "class": "left", "score": "right", "or else": "left"}, rows)
    for answer in failed:
        print(f"error: {answer.error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(answers)} pictures could not be read", file=sys.stderr)
