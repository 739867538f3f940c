"""Arguments that several verbs share, and what they mean."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import complete

_SUFFIXES_OF_WEIGHTS = (
    ".safetensors",
    ".npz",
    ".pt",
    ".pth",
    ".bin",
    ".h5",
    ".keras",
    ".onnx",
)
# In the folder of a run, and in a folder from the Hugging Face hub.
_FILES_OF_WEIGHTS = ("best.safetensors", "last.safetensors", "model.safetensors")
# How files of weights begin: archives of torch and NumPy, HDF5, pickles.
_SIGNS_OF_WEIGHTS = (b"PK\x03\x04", b"\x89HDF", b"\x80\x02", b"\x80\x04", b"\x80\x05")
_WORD = re.compile(r"\w+")  # what names of architectures are


class ResizeName(StrEnum):
    """How an image is brought to the size of the crop."""

    resmall = "resmall"
    resize = "resize"


Weights = Annotated[
    str,
    typer.Argument(
        help="Checkpoint, run folder, or name (`mlp-mixer models --weights`).",
        autocompletion=complete.weights,
    ),
]
WeightsOrBundled = Annotated[
    str | None,
    typer.Argument(
        help="Checkpoint, run folder or name. Default: the bundled CIFAR-10 model.",
        autocompletion=complete.weights,
    ),
]
Input = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Checkpoint, run folder, or name (`mlp-mixer models --weights`).",
        autocompletion=complete.weights,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which network of a file that holds several, such as student.",
    ),
]
LabelledImages = Annotated[
    str,
    typer.Option(
        "--data",
        help="Labelled images: digits, cifar10:PATH, folder:PATH, ...",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE, such as train.epochs=2."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the newest saved state.")
]
OverwriteRun = Annotated[
    bool,
    typer.Option("--overwrite", help="Train anew in a folder that holds a run."),
]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")]
OverwriteOut = Annotated[
    bool, typer.Option("--overwrite", help="Replace what --out names.")
]
FindBatchSize = Annotated[
    bool,
    typer.Option(
        "--find-batch-size",
        help="Compute each batch in the parts that fit into memory and are fastest.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Train for about this long on this machine, instead of some epochs.",
    ),
]
Track = Annotated[
    str | None,
    typer.Option(help="Also follow the run in tensorboard, wandb, trackio or mlflow."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images computed at a time.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Engine = Annotated[
    str,
    typer.Option(help="What computes: torch, plain, onnxruntime, openvino or auto."),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Admit bf16 and int8 where they are faster, move logits by a tenth at most "
        "and name the first pictures alike; what was taken is printed.",
    ),
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="fp32 (exact), bf16, or auto: fp32 on a CPU, bf16 on a GPU if it agrees.",
    ),
]
MinScore = Annotated[
    str | None,
    typer.Option(
        metavar="SCORE",
        help="Lower scores give no answer (unknown): 0 to 1, or auto, which the "
        "validation images chose.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE|A,B,C",
        help="Names of the classes in the order of the logits: a file, or a,b,c.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def or_bundled(checkpoint: str | None) -> tuple[str | Path, str]:
    """Return what to load where no checkpoint may be named, and its name.

    Args:
        checkpoint: As typed.
    """
    from ..weights.catalog import BUNDLED

    if checkpoint is None:
        return BUNDLED, BUNDLED.stem
    return checkpoint, checkpoint


def with_key(source: str | Path, key: str | None) -> Any:
    """Return what takes the place of a checkpoint: itself, or the network at a key.

    Args:
        source: What `load` takes.
        key: As typed.
    """
    if key is None:
        return source
    from ..weights import load

    return load(source, key=key)


def introduce_bundled(labels: tuple[str, ...] | None) -> None:
    """Print on stderr, where nobody named weights, what the bundled model knows.

    Args:
        labels: The names of its classes.
    """
    print(
        f"The bundled model knows {', '.join(labels or ())}, and nothing else. For other "
        "classes name published weights (`mlp-mixer models --weights`), or train on your "
        "own pictures (`mlp-mixer finetune`).",
        file=sys.stderr,
    )


def split_arguments(
    arguments: list[str], model: str | None
) -> tuple[str | None, list[str]]:
    """Separate `[CHECKPOINT] PICTURE...`.

    The first argument is a picture only if it looks like one. So a mistyped checkpoint
    is refused by its name, instead of becoming a picture that cannot be read while the
    bundled model answers for all others.

    Args:
        arguments: As typed, at least one.
        model: The checkpoint, if an option named it: then all arguments are pictures.

    Returns:
        The checkpoint (None: the bundled one) and the pictures.

    Raises:
        UserError: One of the pictures is a checkpoint.
    """
    from ..errors import UserError

    first = arguments[0]
    only_pictures = model is None and not is_model(first) and _is_pictures(first)
    if model is not None or only_pictures:
        checkpoint, pictures = model, arguments
    else:
        checkpoint, pictures = first, arguments[1:]
    for picture in pictures:
        # A folder of pictures may hold a config.json, so that does not count here.
        if is_model(picture, _FILES_OF_WEIGHTS):
            advice = f"only one is used, and that is {checkpoint!r}"
            if only_pictures:
                advice = "put it first"
            raise UserError(f"{picture!r} is a checkpoint, not a picture; {advice}")
    return checkpoint, pictures


def is_model(
    argument: str, inside: tuple[str, ...] = ("config.json", *_FILES_OF_WEIGHTS)
) -> bool:
    """Return whether an argument names a checkpoint.

    That is a known name, a repository of the Hugging Face hub, a file with the suffix
    of weights, or a folder that holds one of some files.

    Args:
        argument: As typed.
        inside: The files that make a folder a checkpoint.
    """
    from ..inference.pictures import is_url
    from ..weights.catalog import find, list_models

    if argument.startswith("hf-hub:") or find(argument):
        return True
    # Their list needs torch, and photo.jpg is the name of no architecture.
    if _WORD.fullmatch(argument) and argument in list_models():
        return True
    # The address of a file may end in a query, such as ?download=true.
    path = Path(argument.partition("?")[0] if is_url(argument) else argument)
    if path.suffix.lower() in _SUFFIXES_OF_WEIGHTS:
        return True
    # Without an ending only the bytes tell a checkpoint from a picture.
    if not path.suffix and _begins_as_weights(path):
        return True
    # os.path.isfile never raises, whatever a name contains.
    return any(os.path.isfile(path / name) for name in inside)  # noqa: PTH113


def _begins_as_weights(path: Path) -> bool:
    """Whether the first bytes of a file are those of weights."""
    try:
        with path.open("rb") as file:
            beginning = file.read(9)
    # It may be missing, a folder, or have a name that no file can have.
    except (OSError, ValueError):
        return False
    # safetensors begins with the length of a JSON object.
    return beginning.startswith(_SIGNS_OF_WEIGHTS) or beginning[8:] == b"{"


def _is_pictures(argument: str) -> bool:
    """Whether it looks like a picture or several, even if nothing is there."""
    from ..images.decode import image_extensions
    from ..inference.pictures import VIDEOS, is_url

    if argument == "-" or is_url(argument):
        return True
    if any(sign in argument for sign in "*?["):
        return True
    ending = Path(argument).suffix.lower()
    if ending in image_extensions() or ending in VIDEOS:
        return True
    if os.path.isdir(argument):  # noqa: PTH112
        return True
    # Pictures on some systems have no ending.
    return not ending and os.path.isfile(argument)  # noqa: PTH113


def named(pictures: list[str]) -> Iterator[str]:
    """Yield the pictures that were named, and for "-" the lines of stdin.

    Args:
        pictures: As typed.
    """
    from ..inference.pictures import read_list

    for name in pictures:
        if name == "-":
            yield from read_list(sys.stdin.buffer)
        else:
            yield name


def refuse_beside(context: typer.Context, option: str, fits: set[str]) -> None:
    """Refuse options that an option would leave without any effect.

    Args:
        context: Of the command.
        option: As typed.
        fits: The parameters that go with it.

    Raises:
        UserError: Another one was typed.
    """
    from ..errors import UserError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        typed = source is not None and source.name == "COMMANDLINE"
        if typed and parameter.name not in fits:
            raise UserError(
                f"{parameter.opts[0]} has no effect beside {option}: leave one of them away"
            )


def parse_size(text: str) -> tuple[int, int]:
    """Return the height and width of "224" or "224x320".

    Args:
        text: As typed: a side, or height x width.

    Raises:
        UserError: It is something else.
    """
    from ..errors import UserError

    # Six digits at most: a typing error should not become a number of 4,300 digits, at
    # which Python refuses to convert.
    match = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", text.strip())
    if match is None:
        raise UserError(
            f"cannot read the image size {text!r}: expected a side or HxW, such as 224 "
            "or 224x320"
        )
    height, width = match.groups()
    return int(height), int(width or height)


def whole_numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    """Return the whole numbers between commas, each once, in the order given.

    Args:
        text: As typed, such as "1,5,10".
        option: Its name, for the error.
        least: The smallest that makes sense.

    Raises:
        UserError: It is something else.
    """
    from ..errors import UserError

    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < least:
        raise UserError(
            f"{option} is {text!r}: expected whole numbers from {least}, such as 1,5,10"
        )
    return numbers
