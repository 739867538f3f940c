"""`mlp-mixer predict`: what is in these pictures?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import complete, predict_parts
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
    refuse_beside,
    split_arguments,
)
from .console import print_json
from .predict_parts import DevicesOption, JoinOption, PartOption
from .told import print_answers, tell_sorted, tell_unknown

if TYPE_CHECKING:
    from ..inference import (
        Failure,
        Features,
        LightPredictor,
        Part,
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
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] PICTURE...",
            autocompletion=complete.weights,
            help="Checkpoint (default: the bundled CIFAR-10 model), then pictures, "
            "folders, 'patterns/**/*.jpg', URLs, videos; - for a list on stdin. "
            "With --join: the files of all parts.",
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
    part: PartOption = None,
    devices: DevicesOption = None,
    join: JoinOption = None,
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

    tally: _Tally | Written
    if join is not None:
        refuse_beside(context, "--join", {"paths", "join", "overwrite", "as_json"})
        tally = predict_parts.join(join, paths, overwrite)
        return _tell_written(tally, join, as_json)
    mine, several = predict_parts.check(part, devices, device, out, features, sort_into)
    checkpoint, names = split_arguments(paths, model)
    # Several processes have files of their own, and check what they replace.
    replace = overwrite or bool(several)
    _check(checkpoint, names, out, features, resume, replace)
    if features is not None and (min_score is not None or sort_into is not None):
        raise UserError(
            "--min-score and --sort-into go with answers; leave them or --features away"
        )
    if several and out is not None:
        tally = predict_parts.on_devices(
            or_bundled(checkpoint)[0],
            list(named(names)),
            out,
            several,
            key=key,
            resume=resume,
            overwrite=overwrite,
            batch_size=batch_size,
            top=top,
            engine=engine,
            fast=fast,
            precision=precision,
            larger=larger,
            min_score=min_score,
            labels=labels,
        )
        return _tell_written(tally, out, as_json, unknown=min_score is not None)
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
                predictor, pictures, batch_size, out, resume, overwrite, sorter, mine
            )
    what = features or "answers"
    computed = predictor.computed() if features is None else None
    unknown = min_score is not None
    code = _tell_written(tally, out, as_json, what, unknown=unknown, computed=computed)
    if min_score is not None and not quiet:
        answers = tally.pictures - tally.failed
        tell_unknown(predictor, min_score, tally.unknown, answers)
    if sorting and not quiet:
        tell_sorted(sorting)
    if features is None and not quiet and predictor.admitted():
        print(predictor.computed_in_words(), file=sys.stderr)
    return code


def _tell_written(
    tally: _Tally | Written,
    out: Path | None,
    as_json: bool,
    what: str = "answers",
    *,
    unknown: bool = False,
    computed: dict[str, Any] | None = None,
) -> int:
    """Say how many pictures were answered, and how many were not; return the exit code."""
    if out is not None and as_json:
        counts: dict[str, Any] = {"pictures": tally.pictures, "failed": tally.failed}
        if unknown:
            counts["unknown"] = tally.unknown
        if computed is not None:
            counts["computed"] = computed
        print_json({"out": str(out), **counts})
    elif out is not None:
        good = tally.pictures - tally.failed
        print(f"wrote {what} for {good} pictures to {out}")
    # Failures are part of the JSON on stdout.
    if tally.failed and not (as_json and out is None):
        print(
            f"{tally.failed} of {tally.pictures} pictures could not be read",
            file=sys.stderr,
        )
    # Scripts should notice that some pictures have no answer.
    return 1 if tally.failed else 0


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
    part: Part | None,
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
            part=part,
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
