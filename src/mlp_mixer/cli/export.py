"""`mlp-mixer export`: a checkpoint for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .console import percent, print_json, print_table


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="A file, a folder, or a name.",
            autocompletion=complete.weights,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="The file to write; a folder for timm and hf.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="onnx, openvino, torch-export, aoti, executorch, timm or hf."
        ),
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="Matrix products in int8 (onnx, openvino).")
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="A folder of images to fix int8's ranges on.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of ONNX: 13 to 20; TensorRT 8 takes up to 17.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="inside: uint8 images come in (the default); beside: the network's floats."
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="A folder of images to compare on, best one per class."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Write weights for another runtime, have it read them back, and compare its
    answers with torch's.
    """
    from ..exporting import export as run

    how = {
        "int8": int8,
        "calibrate": calibrate,
        "opset": opset,
        "preprocess": preprocess,
        "check": check,
    }
    report = run(checkpoint, out, to, overwrite=overwrite, **how)  # type: ignore[arg-type]
    if as_json:
        print_json(report)
        return 0
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    titles = [
        "runtime",
        "MiB",
        "ms/image, 1 at once",
        "8 at once",
        "largest difference",
        "same top-1",
        "accuracy",
    ]
    rows = [
        (
            row["runtime"],
            f"{row['mib']:.2f}",
            f"{row['ms_batch_1']:.3g}",
            f"{row['ms_batch_8']:.3g}",
            f"{row['difference']:.1e}",
            percent(row["same_top1"]),
            "" if row["top1"] is None else percent(row["top1"]),
        )
        for row in report["rows"]
    ]
    print_table(
        {
            title: "right" if position else "left"
            for position, title in enumerate(titles)
        },
        rows,
    )
    print(f"{out}: compared with torch on {report['images']}")
    return 0
