"""`mlp-mixer predict` past one process: parts, all devices of a machine, joining."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..inference import Part, Written
    from .progress import Count

PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        help="Answer only part I of N, a share that a hash of the path decides.",
    ),
]
DevicesOption = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="all|A,B,...",
        help="One process on each device: all GPUs, or cuda:0,cuda:1.",
    ),
]
JoinOption = Annotated[
    Path | None,
    typer.Option(
        "--join",
        metavar="OUT",
        help="Make one file of the files of all parts, which are the arguments.",
    ),
]


def join(out: Path, parts: list[str], overwrite: bool) -> Written:
    """Join the files of all parts.

    Args:
        out: As typed.
        parts: As typed.
        overwrite: Whether to replace `out`.
    """
    from ..inference import join_answers

    return join_answers(out, parts, overwrite=overwrite)


def check(
    part: str | None,
    devices: str | None,
    device: str,
    out: Path | None,
    features: str | None,
    sort_into: Path | None,
) -> tuple[Part | None, list[str]]:
    """Refuse, before weights are loaded, what does not go with parts and devices.

    Args:
        part: As typed, like the others.
        devices: None for a single process.
        device: Of a single process.
        out: Where the answers go.
        features: What to write in their place.
        sort_into: Where the pictures go.

    Returns:
        The part, and the devices of several processes.

    Raises:
        UserError: The options contradict each other, or one cannot be read.
    """
    if part is None and devices is None:
        return None, []
    from ..errors import UserError
    from ..inference import Part
    from ..inference.processes import device_names

    option = "--part" if part is not None else "--devices"
    if part is not None and devices is not None:
        raise UserError(
            "--devices shares the pictures out by itself; leave it or --part away"
        )
    if devices is not None and device != "auto":
        raise UserError(
            f"--devices {devices} and --device {device} contradict each other; leave one "
            "of them away"
        )
    if out is None:
        raise UserError(f"{option} needs a file for its answers; add --out FILE.csv")
    if features is not None or sort_into is not None:
        raise UserError(
            f"{option} goes with answers alone; leave --features and --sort-into away"
        )
    if part is not None:
        return Part.parse(part), []
    return None, device_names(devices or "")


def on_devices(
    checkpoint: Any,
    pictures: list[str],
    out: Path,
    devices: list[str],
    *,
    fast: bool,
    precision: str,
    **options: Any,
) -> Written:
    """Answer on several devices, with one count of all answers.

    Args:
        checkpoint: What `load` takes.
        pictures: As typed, with the lines of stdin.
        out: The file of answers.
        devices: Names of torch's.
        fast: As typed, like the next.
        precision: Of the logits.
        options: Of `predict_on_devices`.
    """
    from ..devices import pick_device
    from ..inference import predict_on_devices
    from ..runtime import admitted_tolerance
    from .progress import counted

    # All devices are of one kind, or the CPU is among them, which admits no more.
    tolerance = min(
        admitted_tolerance(fast, precision, pick_device(name)) for name in devices
    )

    with counted("pictures") as show:
        return predict_on_devices(
            checkpoint,
            pictures,
            out,
            devices,
            report=_shown(show),
            tolerance=tolerance,
            precision=precision,
            **options,
        )


def _shown(show: Count) -> Any:
    def report(done: int, failure: str | None) -> None:
        if failure is not None:
            print(f"error: {failure}", file=sys.stderr)
        show(done)

    return report
