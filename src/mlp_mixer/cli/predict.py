"""`mlp-mixer predict`: what is in these pictures?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..intervals import accuracy
from . import complete
from .answer_tables import print_answers
from .arguments import (
    Device,
    Engine,
    Fast,
    Json,
    Key,
    Labels,
    MinScore,
    OverwriteOut,
    PrecisionName,
    introduce_bundled,
    is_model,
    named,
    or_bundled,
    split_arguments,
)
from .console import print_json

if TYPE_CHECKING:
    from ..inference import (
        Failure,
        Features,
        LightPredictor,
        Prediction,
        Predictor,
        Sorter,
        Written,
    )
    from .progress import Count

    AnyPredictor = Predictor | LightPredictor


class SortBy(StrEnum):
    """How a picture comes into the folder of its answer."""

    link = "link"
    copy = "copy"


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] PICTURE...",
            autocompletion=complete.weights,
            help="Checkpoint (default: the bundled CIFAR-10 model), then pictures, "
            "folders, 'patterns/**/*.jpg', URLs, videos; - for a list on stdin.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The checkpoint; then every argument is a picture."),
    ] = None,
    key: Key = None,
    top: Annotated[int, typer.Option(min=1, help="Candidates per picture.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a .csv, .json, .jsonl or .parquet file."),
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
        typer.Option("--resume", help="Continue a stopped run with this --out."),
    ] = False,
    overwrite: OverwriteOut = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures computed at a time.")
    ] = 32,
    device: Device = "auto",
    engine: Engine = "auto",
    fast: Fast = False,
    precision: PrecisionName = "auto",
    larger: Annotated[
        str,
        typer.Option(
            help="Images larger than the input: resize, or tile and average the tiles."
        ),
    ] = "resize",
    min_score: MinScore = None,
    labels: Labels = None,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also sort the files into a folder for each answer; nothing is moved.",
        ),
    ] = None,
    sort_by: Annotated[
        SortBy, typer.Option(help="link (a copy where there are no links) or copy.")
    ] = SortBy.link,
    as_json: Json = False,
) -> int:
    """Classify pictures.

    Pictures that cannot be read are listed and make the exit code 1; the others are
    answered.
    """
    from ..errors import UserError
    from ..inference.light import choose_predictor

    checkpoint, names = split_arguments(paths, model)
    _check(checkpoint, names, out, features, resume, overwrite)
    if features is not None and (min_score is not None or sort_into is not None):
        raise UserError(
            "--min-score and --sort-into go with answers; leave them or --features away"
        )
    # Weights are loaded after all checks: a download may take minutes.
    predictor = choose_predictor(
        or_bundled(checkpoint)[0],
        names,
        key=key,
        features=features is not None,
        device=device,
        top=top,
        engine=engine,
        fast=fast,
        precision=precision,
        larger=larger,
        min_score=min_score,
        labels=labels,
    )
    # Failures are part of the JSON on stdout.
    quiet = as_json and out is None
    if checkpoint is None and not quiet:
        introduce_bundled(predictor.labels)
    pictures = named(names)
    sorting = None
    if sort_into:
        from ..inference import Sorter

        sorting = Sorter(predictor, sort_into, sort_by.value)
    tally: _Tally | Written
    with sorting or contextlib.nullcontext() as sorter:
        if out is None:
            tally = _print_answers(predictor, pictures, batch_size, as_json, sorter)
        elif features is not None:
            tally = _write_features(
                cast("Predictor", predictor),
                pictures,
                batch_size,
                out,
                features,
                overwrite,
            )
        else:
            tally = _write_answers(
                predictor, pictures, batch_size, out, resume, overwrite, sorter
            )
    if out is not None:
        if as_json:
            counts = {"pictures": tally.pictures, "failed": tally.failed}
            if min_score is not None:
                counts["unknown"] = tally.unknown
            computed = predictor.computed()
            print_json({"out": str(out), **counts, "computed": computed})
        else:
            good = tally.pictures - tally.failed
            print(f"wrote {features or 'answers'} for {good} pictures to {out}")
    if tally.failed and not quiet:
        print(
            f"{tally.failed} of {tally.pictures} pictures could not be read",
            file=sys.stderr,
        )
    if min_score is not None and not quiet:
        _tell_unknown(predictor, min_score, tally)
    if sorting and not quiet:
        _tell_sorted(sorting)
    if features is None and not quiet and predictor.admitted():
        print(predictor.computed_in_words(), file=sys.stderr)
    # Scripts should notice that some pictures have no answer.
    return 1 if tally.failed else 0


def _tell_unknown(
    predictor: AnyPredictor, wanted: str, tally: _Tally | Written
) -> None:
    """Say on stderr how many pictures have no answer, and where the limit is from."""
    from ..weights.scores import AUTO, chosen_min_score

    answers = tally.pictures - tally.failed
    print(
        f"{tally.unknown} of {answers} pictures are unknown: their best score is below "
        f"{predictor.min_score:.4g}",
        file=sys.stderr,
    )
    chosen = chosen_min_score(predictor.checkpoint.provenance)
    if wanted == AUTO and chosen is not None:
        answered = round(chosen.coverage * chosen.n)
        print(
            f"of {chosen.n:,} validation images it answers {answered:,}, and is right in "
            f"{accuracy(chosen.accuracy, answered)}",
            file=sys.stderr,
        )


def _tell_sorted(sorter: Sorter) -> None:
    """Say on stderr what came into which folder."""
    counts = [f"{count:,} {name}" for name, count in sorted(sorter.counts.items())]
    print(
        f"sorted {sorter.counts.total():,} pictures into {sorter.folder}: "
        f"{', '.join(counts) or 'none'} (each is a {sorter.by})",
        file=sys.stderr,
    )
    if sorter.without_file:
        print(
            f"{sorter.without_file:,} answers are about addresses or frames of videos, "
            "which are no files to sort",
            file=sys.stderr,
        )


def _check(
    checkpoint: str | None,
    names: list[str],
    out: Path | None,
    features: str | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Refuse, before weights are loaded, arguments that contradict each other."""
    from ..errors import UserError

    if checkpoint is not None and not names:
        # A single argument is read as a checkpoint unless it looks like a picture, so a
        # mistyped folder arrives here.
        if not is_model(checkpoint):
            raise UserError(
                f"there are no pictures and no weights at {checkpoint!r}; check the path"
            )
        raise UserError(
            f"no pictures given to classify with {checkpoint!r}; add the paths of some"
        )
    if out is not None:
        from ..inference.answers import unfinished_path
        from ..inference.formats import check_out

        going_on = resume and unfinished_path(out).exists()
        check_out(out, features=features is not None, replace=overwrite or going_on)
    elif features is not None:
        raise UserError(
            f"the features {features!r} need a file to go to; add --out FILE.npz"
        )
    if resume and (out is None or features is not None):
        raise UserError(
            "--resume continues a file of answers: add --out FILE, and leave --features "
            "away"
        )


@dataclass
class _Tally:
    """Counts answers, names failures on stderr as they come, and shows the count."""

    show: Count
    quiet: bool = False
    pictures: int = 0
    failed: int = 0
    unknown: int = 0

    def __call__(self, answer: Prediction | Features | Failure) -> None:
        from ..inference import Failure, Prediction

        self.pictures += 1
        self.unknown += isinstance(answer, Prediction) and answer.pred_label is None
        if isinstance(answer, Failure):
            self.failed += 1
            if not self.quiet:
                print(f"error: {answer.error}", file=sys.stderr)
        self.show(self.pictures)


def _write_features(
    predictor: Predictor,
    pictures: Iterator[str],
    batch_size: int,
    out: Path,
    name: str,
    overwrite: bool,
) -> Written:
    """Write a feature to the file; return how many, and how many failed."""
    from ..inference import features_to_file
    from .progress import counted

    with counted("pictures") as show:
        return features_to_file(
            predictor,
            pictures,
            name,
            out,
            overwrite=overwrite,
            batch_size=batch_size,
            report=_Tally(show),
        )


def _write_answers(
    predictor: AnyPredictor,
    pictures: Iterator[str],
    batch_size: int,
    out: Path,
    resume: bool,
    overwrite: bool,
    sorter: Sorter | None,
) -> Written:
    """Write answers to the file; return how many, and how many failed."""
    from ..inference import predict_to_file
    from .progress import counted

    with counted("pictures") as show:
        return predict_to_file(
            predictor,
            pictures,
            out,
            resume=resume,
            overwrite=overwrite,
            sorter=sorter,
            batch_size=batch_size,
            report=_Tally(show),
        )


def _print_answers(
    predictor: AnyPredictor,
    pictures: Iterator[str],
    batch_size: int,
    as_json: bool,
    sorter: Sorter | None,
) -> _Tally:
    from ..inference import Prediction
    from .progress import counted

    # Kept until the end: JSON is one value, and a table needs the longest name.
    answers = []
    with counted("pictures") as show:
        tally = _Tally(show, quiet=as_json)
        outside = None if sorter is None else sorter.folder
        for answer in predictor.predict(
            pictures, batch_size=batch_size, outside=outside
        ):
            tally(answer)
            if sorter is not None:
                sorter.add(answer)
            answers.append(answer)
    if as_json:
        print_json([answer.to_dict() for answer in answers])
        return tally
    good = [answer for answer in answers if isinstance(answer, Prediction)]
    if good:
        print_answers(good)
    return tally
