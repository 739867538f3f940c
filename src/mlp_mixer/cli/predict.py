"""`mlp-mixer predict`: what is on these pictures?"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from . import complete
from .console import percent, print_json, print_table

if TYPE_CHECKING:
    from torch import nn

    from ..inference.predictor import Prediction, Predictor

Answer = TypeVar("Answer")
_QUIET_SECONDS = 15.0  # between two lines of progress where stderr is no terminal
WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".h5", ".keras")
NOTES = {
    "sigmoid": "scores are sigmoids: each class is judged on its own, and they need not sum to 1",
    "semantic softmax": "scores rank the classes and are no probabilities: this head was trained in groups of classes",
}
WEIGHT_FILES = (
    "best.safetensors",
    "model.safetensors",
)  # in the folder of a run, in one from the hub


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] PICTURE...",
            autocompletion=complete.weights,
            help="Weights (none: the small model in the package), then pictures, folders, 'patterns/**/*.jpg', URLs, "
            "videos; - for a list on stdin.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The checkpoint; then every argument is a picture."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates per picture.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Answers into a .csv, .json, .jsonl or .parquet file."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write pre_logits, blocks.0, ... into --out FILE.npz instead.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run with this --out was stopped."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures computed at once.")
    ] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="What computes: torch, plain, onnxruntime, openvino or auto."
        ),
    ] = "auto",
    larger: Annotated[
        str, typer.Option(help="Pictures of more pixels: resize, or tile and average.")
    ] = "resize",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Classify pictures. Unreadable ones are listed and make the exit code 1; the
    others are answered.
    """
    from ..devices import pick_device
    from ..errors import UserError
    from ..inference import answers as results
    from ..inference.pictures import listed
    from ..inference.predictor import Prediction, Predictor
    from ..weights.catalog import BUNDLED

    checkpoint, names = split_arguments(paths, model)
    if checkpoint is not None and not names:
        if not is_model(checkpoint):
            raise UserError(
                f"there are no pictures and no weights at {checkpoint!r}; check the path"
            )
        raise UserError(
            f"no pictures given to classify with {checkpoint!r}; add the paths of some"
        )
    if out is not None:
        results.check(out, features=features is not None)
    elif features is not None:
        raise UserError(
            f"the features {features!r} need a file to go to; add --out FILE.npz"
        )
    if resume and (out is None or features is not None):
        raise UserError(
            "--resume goes on with the answers in a file: add --out FILE, and leave --features away"
        )
    weights = BUNDLED if checkpoint is None else checkpoint
    predictor = Predictor(
        weights, device=str(pick_device(device)), top=top, engine=engine, larger=larger
    )
    pictures = itertools.chain.from_iterable(
        listed(sys.stdin.buffer) if name == "-" else [name] for name in names
    )
    counts = Counter(pictures=0, failed=0)
    quiet = as_json and out is None  # then the failures are on stdout
    if checkpoint is None and not quiet:
        introduce_box(predictor.labels)
    if out is not None and features is not None:
        values = predictor.features(pictures, features, batch_size=batch_size)
        results.save_features(out, features, _reported(values, counts))
    elif out is not None:
        counts = _into_file(out, predictor, pictures, batch_size, resume)
    else:
        answers = _reported(
            predictor.predict(pictures, batch_size=batch_size), counts, quiet
        )
        if as_json:
            print_json(
                [
                    answer.to_dict() | {"path": results.escaped(answer.path)}
                    for answer in answers
                ]
            )
        else:
            _print_table(
                [answer for answer in answers if isinstance(answer, Prediction)],
                predictor.score_kind,
            )
    if out is not None and as_json:
        print_json({"out": str(out), **counts})
    elif out is not None:
        print(
            f"wrote {features or 'answers'} for {counts['pictures'] - counts['failed']} pictures to {out}"
        )
    if counts["failed"] and not quiet:
        print(
            f"{counts['failed']} of {counts['pictures']} pictures could not be read",
            file=sys.stderr,
        )
    return 1 if counts["failed"] else 0


def _into_file(
    out: Path,
    predictor: Predictor,
    pictures: Iterable[str],
    batch_size: int,
    resume: bool,
) -> Counter[str]:
    """Answers into the file, going on where an earlier run was stopped if that is
    wanted; how many, how many failed.
    """
    from ..config import to_dict
    from ..files import locked_folder, make_folder
    from ..inference import answers as results

    how = {
        "preprocess": to_dict(predictor.checkpoint.preprocess),
        "top": predictor.top,
        "larger": predictor.larger,
    }
    identity = {"weights": _fingerprint(predictor.model), **how}
    with locked_folder(make_folder(out.parent), f".{out.name}.claimed"):
        unfinished = results.Unfinished(out, identity, resume=resume)
        try:
            answers = predictor.predict(
                pictures, batch_size=batch_size, done=unfinished.done()
            )
            for _ in _reported(unfinished.add(answers), Counter()):
                pass
            unfinished.finish(predictor.top)
        finally:
            unfinished.give_up()
    return unfinished.counts


def _fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits of all weights."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        )
    return digest.hexdigest()[:16]


def introduce_box(labels: Sequence[str] | None) -> None:
    """Say on stderr, where nobody named weights, what those of the package know."""
    print(
        f"The small model in the package knows {', '.join(labels or ())}, and nothing else. For more, name others' "
        "weights (`mlp-mixer models --weights`), or train on your own pictures (`mlp-mixer finetune`).",
        file=sys.stderr,
    )


def split_arguments(
    arguments: list[str], model: str | None
) -> tuple[str | None, list[str]]:
    """The checkpoint (None: the package's) and the pictures; the first argument is
    pictures only if it looks so.

    So mistyped weights are refused by name, instead of failing as a picture while the
    package's answer all others.
    """
    from ..errors import UserError

    boxed = model is None and not is_model(arguments[0]) and _is_pictures(arguments[0])
    checkpoint, pictures = (
        (arguments[0], arguments[1:])
        if model is None and not boxed
        else (model, arguments)
    )
    for picture in pictures:
        if is_model(picture, WEIGHT_FILES):
            advice = (
                "put it first"
                if boxed
                else f"only one is used, and that is {checkpoint!r}"
            )
            raise UserError(f"{picture!r} is a checkpoint, not a picture; {advice}")
    return checkpoint, pictures


def is_model(
    argument: str, inside: tuple[str, ...] = ("config.json", *WEIGHT_FILES)
) -> bool:
    """A known name, a repository of the hub, a file of weights by its suffix, or a
    folder with one of these inside.
    """
    from ..inference.pictures import is_url
    from ..weights.catalog import find, list_models

    if argument.startswith("hf-hub:") or argument in list_models() or find(argument):
        return True
    path = Path(argument.partition("?")[0] if is_url(argument) else argument)
    return path.suffix.lower() in WEIGHT_SUFFIXES or any(
        os.path.isfile(path / name)  # noqa: PTH113
        for name in inside
    )


def _is_pictures(argument: str) -> bool:
    """A list, URL, folder or pattern; by its ending an image or video, even if it is
    not there; a file without one.
    """
    from ..images.decode import image_extensions
    from ..inference.pictures import VIDEOS, is_url

    ending = Path(argument).suffix.lower()
    known = (
        argument == "-"
        or is_url(argument)
        or ending in image_extensions()
        or ending in VIDEOS
    )
    there = os.path.isdir(argument) or (not ending and os.path.isfile(argument))  # noqa: PTH112, PTH113 - never raise
    return known or there or any(sign in argument for sign in "*?[")


def _reported(
    answers: Iterator[Answer], counts: Counter[str], quiet: bool = False
) -> Iterator[Answer]:
    """The same answers, counted; failures are named on stderr as they come, and so is,
    now and then, how many came.
    """
    from ..inference.predictor import Failure

    counts.update(pictures=0, failed=0)
    started = said = time.monotonic()
    live, pause = (True, 0.2) if sys.stderr.isatty() else (False, _QUIET_SECONDS)
    for answer in answers:
        counts["pictures"] += 1
        if isinstance(answer, Failure):
            counts["failed"] += 1
            if not quiet:
                print(f"error: {answer.error}", file=sys.stderr)
        if (now := time.monotonic()) - said > pause:
            said = now
            rate = counts["pictures"] / (now - started)
            text = f"{counts['pictures']:,} pictures, {rate:,.0f}/s"
            print(
                f"\r\x1b[K{text}" if live else text,
                end="" if live else "\n",
                file=sys.stderr,
                flush=True,
            )
        yield answer
    if live and said > started:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _print_table(answers: list[Prediction], score_kind: str) -> None:
    from ..inference.answers import escaped

    if answers and score_kind in NOTES:
        print(NOTES[score_kind], file=sys.stderr)
    rows = []
    for x in answers:
        others = ", ".join(
            f"{candidate.name} {percent(candidate.score)}" for candidate in x.top[1:3]
        )
        rows.append((escaped(x.path), x.pred_class, percent(x.pred_score), others))
    if answers:
        print_table(
            {"picture": "left", "class": "left", "score": "right", "or else": "left"},
            rows,
        )
