"""Use a checkpoint: what `mlp-mixer evaluate`, `predict` and `export` do."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from ..data import Dataset
from ..data.registry import check_place
from ..devices import pick_device
from ..errors import unknown
from ..evaluation import Evaluation, MultiLabelEvaluation, evaluate_checkpoint
from ..evaluation.accuracy import Progress, Tta
from ..evaluation.splits import Split
from ..exporting import export as export_file
from ..files import PathLike
from ..inference import Failure, Prediction, Predictor, Sorter
from ..inference.pictures import Picture
from ..runtime import TOLERANCE, EngineOnce
from ..weights import Checkpoint, load, save
from ..weights.catalog import BUNDLED
from ..weights.given_labels import GivenLabels
from ..weights.loading import Weights


def evaluate(
    checkpoint: Checkpoint | PathLike,
    data: str | Dataset,
    *,
    split: Split = "test",
    tta: Tta = "none",
    labels: GivenLabels | None = None,
    batch_size: int = 256,
    device: str = "auto",
    engine: str = "auto",
    tolerance: float = TOLERANCE,
    precision: str = "auto",
    progress: Progress | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Measure the accuracy of a checkpoint on labelled images it was not trained on.

        import mlp_mixer as mm

        result = mm.evaluate("runs/digits", "digits")
        print(f"{result.top1:.2%} of {result.n} images ({result.split})")

    Args:
        checkpoint: What `load` takes, or a loaded `Checkpoint`.
        data: A name or path as `open_dataset` takes it, or an open `Dataset`.
        split: "test", "train", or "all" where the dataset has no test split.
        tta: Test-time augmentation: "none", "flip" or "shift".
        labels: The names of the model's classes, as for `load`; "lexicographic": those
            of the data in the order of torchvision's ImageFolder (1, 10, 2).
        batch_size: Images at a time.
        device: "auto" is a GPU if there is one.
        engine, tolerance, precision: As for `Predictor`.
        progress: Is called with the images that are done, and with all.

    Returns:
        `.top1`, `.top5` (fractions), `.loss` (nats), `.n` (images), `.split` (which
        images, in words), and every answer. Of images with several labels each `.map`,
        `.micro_f1` and `.macro_f1` instead of the accuracies. `evaluation.answered` says
        what is left of it if low scores give no answer. `.computed` names engine,
        precision and difference from fp32.

    Raises:
        UserError: The checkpoint or the data cannot be used, or the data has classes
            that the model does not know.
    """
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    if tta not in get_args(Tta):
        raise unknown("test-time augmentation", tta, get_args(Tta))
    # Before the weights are read, which may take minutes.
    place = pick_device(device)
    if isinstance(checkpoint, (str, os.PathLike)):
        check_place(data, checkpoint)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    _, result = evaluate_checkpoint(
        loaded,
        data,
        split,
        labels=labels,
        batch_size=batch_size,
        device=place,
        tta=tta,
        engine=EngineOnce(engine, tolerance=tolerance, precision=precision),
        progress=progress,
    )
    return result


def predict(
    checkpoint: Checkpoint | PathLike | Picture | Iterable[Picture],
    pictures: Picture | Iterable[Picture] | None = None,
    *,
    top: int = 5,
    batch_size: int = 32,
    device: str = "auto",
    engine: str = "auto",
    tolerance: float = TOLERANCE,
    precision: str = "auto",
    larger: str = "resize",
    min_score: float | str | None = None,
    labels: GivenLabels | None = None,
    sort_into: PathLike | None = None,
    sort_by: str = "link",
) -> list[Prediction | Failure]:
    """Classify pictures; a picture that cannot be read gives a `Failure` in its place.

        import mlp_mixer as mm

        for answer in mm.predict("runs/digits", ["a.png", "b.png"]):
            print(answer.path, answer.pred_class, answer.pred_score)

    `mm.predict(pictures)` uses the bundled CIFAR-10 model. For many pictures, or for
    several calls, `Predictor` loads the model once and answers one by one.

    Args:
        checkpoint: What `load` takes, or a loaded `Checkpoint`; the pictures, if they
            are the only argument.
        pictures: A path, address, array or `PIL.Image`, or several of them; folders,
            patterns and videos stand for the pictures in them.
        top: How many candidates to report for each picture.
        batch_size, device, engine, tolerance, precision, larger, min_score, labels: As
            for `Predictor`.
        sort_into: Also sort the files into this folder, which gets a folder for each
            answer. Nothing is moved or replaced.
        sort_by: "link" (copies where the system has no links) or "copy".

    Returns:
        A `Prediction` or `Failure` for each picture, in order.

    Raises:
        UserError: The checkpoint cannot be loaded, or an option is wrong, or the folder
            to sort into cannot be used.
    """
    model: Any = checkpoint
    wanted: Any = pictures
    if pictures is None:
        model = BUNDLED
        wanted = checkpoint
    if _is_one_picture(wanted):
        wanted = [wanted]
    predictor = Predictor(
        model,
        device=device,
        top=top,
        engine=engine,
        tolerance=tolerance,
        precision=precision,
        larger=larger,
        min_score=min_score,
        labels=labels,
    )
    if sort_into is None:
        return list(predictor.predict(wanted, batch_size=batch_size))
    answers = []
    with Sorter(predictor, sort_into, sort_by) as sorter:
        for answer in predictor.predict(
            wanted, batch_size=batch_size, outside=sort_into
        ):
            sorter.add(answer)
            answers.append(answer)
    return answers


def _is_one_picture(pictures: Any) -> bool:
    if isinstance(pictures, (str, bytes)):
        return True
    # An array is one picture, although it can be iterated.
    return hasattr(pictures, "shape") or not isinstance(pictures, Iterable)


def export(
    checkpoint: Checkpoint | PathLike,
    path: PathLike,
    to: str = "onnx",
    *,
    int8: bool = False,
    calibrate: PathLike | None = None,
    opset: int | None = None,
    preprocess: str | None = None,
    check: PathLike | None = None,
    labels: GivenLabels | None = None,
    overwrite: bool = False,
    runtime: PathLike | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a checkpoint for another runtime, which reads it back and is compared.

        import mlp_mixer as mm

        report = mm.export("runs/digits", "digits.onnx", to="onnx")
        print(report["rows"][-1]["difference"])

    Args:
        checkpoint: What `load` takes, or a loaded `Checkpoint`.
        path: The file to write; a folder for "timm", "hf", "web" and "triton".
        to: "onnx", "openvino", "torch-export", "aoti", "executorch", "timm", "hf",
            "web" or "triton".
        int8: Compute matrix products in int8 ("onnx", "web" and "triton" for Mixers,
            "openvino").
        calibrate: An older word for `check`, beside int8.
        opset: Of the ONNX graph, 13 to 20.
        preprocess: "inside": the graph normalises uint8 images (the default where it
            can); "beside": it takes normalised floats.
        check: A folder of images to compare on, best one folder per class.
        labels: The names of the classes, as for `load`.
        overwrite: Replace `path`.
        runtime: For "web": the npm package onnxruntime-web, as an archive or a folder;
            by default it is downloaded once.
        progress: Is called with the steps that are done, and with all.

    Returns:
        What was compared, as `mlp_mixer.exporting.export` says: `path`; `rows` of torch
        and of the export; `images`; `notes`.

    Raises:
        UserError: An option is wrong, a package is missing, or the export answers
            otherwise than torch; then nothing is written.
    """
    with _as_file(checkpoint) as source:
        return export_file(
            source,
            path,
            to,
            int8=int8,
            calibrate=calibrate,
            opset=opset,
            preprocess=preprocess,
            check=check,
            labels=labels,
            overwrite=overwrite,
            runtime=runtime,
            progress=progress or (lambda done, total: None),
        )


@contextlib.contextmanager
def _as_file(checkpoint: Checkpoint | Weights) -> Iterator[PathLike]:
    """Yield what `load` takes: an export is read back in another process."""
    if isinstance(checkpoint, (str, os.PathLike)):
        yield checkpoint
        return
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        yield save(
            Path(folder) / "checkpoint.safetensors",
            checkpoint.model,
            preprocess=checkpoint.preprocess,
            labels=checkpoint.labels,
            provenance=checkpoint.provenance,
        )
