"""The verbs of the command line as functions: `import mlp_mixer as mm; mm.train("digits", "runs/digits")`.

Each function does what the command of its name does, takes its options by name, and
returns values instead of printing them. `mlp_mixer/__init__.py` exports them.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .config import from_dict, override
from .data import ArraySet, Dataset, open_dataset
from .devices import cuda_is_available, pick_device
from .errors import UserError
from .evaluation import Evaluation, evaluate_checkpoint
from .evaluation.accuracy import Tta
from .evaluation.splits import Split
from .exporting import export as export_file
from .files import PathLike, read_json
from .inference import Failure, Prediction, Predictor
from .inference.pictures import Picture
from .recipes import get_recipe
from .recipes.finetune import finetune_auto
from .recipes.rescale import rescale
from .training import TrainConfig
from .training import train as run_training
from .training.extras.linear_probe import fit_head
from .training.journal import JournalRow, read_journal
from .training.loop import Report
from .weights import Checkpoint, load, save
from .weights.catalog import BUNDLED

Settings = Iterable[str] | Mapping[str, Any]
"""`["train.epochs=2"]` as on the command line, or `{"train.epochs": 2}`."""

SCRATCH = "scratch"
"""In the place of weights: train from random weights."""

_SMALL_IMAGE = (
    64  # pixels of the longer side, up to which random crops leave too little
)


def _ignore(row: JournalRow) -> None:
    """The default report: nobody listens."""


def train(
    config: TrainConfig | str | Path,
    out: PathLike,
    *,
    data: str | Dataset | None = None,
    settings: Settings = (),
    epochs: float | None = None,
    batch_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    find_batch_size: bool = False,
    report: Report = _ignore,
) -> JournalRow:
    """Train a model and leave its checkpoints, journal and state in a folder.

        import mlp_mixer as mm

        best = mm.train("digits", "runs/digits", epochs=4)
        print(best["top1"])
        predictor = mm.Predictor("runs/digits")

    Args:
        config: A recipe's name (see `list_recipes`), a `TrainConfig`, or the path of a
            run's config.json.
        out: The folder of the run; it is created.
        data: Images in the place of the recipe's: a name or path as `open_dataset`
            takes it, or an open `Dataset`.
        settings: Fields to change, such as `{"train.epochs": 2}`.
        epochs: Another length; a warm-up in steps keeps its share of the run.
        batch_size: Another batch over all processes; the learning rate follows.
        resume: Continue from the newest saved state, or start if there is none.
        overwrite: Train anew in a folder that holds a run.
        find_batch_size: Compute each batch in as many parts as fit into memory.
        report: Is called with every row of the journal, and with rows of the kinds
            "start" and "note".

    Returns:
        The row of the best evaluation: "step", "epoch", and "top1" (a fraction of the
        validation images) where there are validation images.

    Raises:
        UserError: The recipe, a setting or the images cannot be used, or `out` holds a
            run already.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    spec = data if isinstance(data, str) else None
    resolved, notes = resolve_config(
        config, data=spec, settings=settings, epochs=epochs, batch_size=batch_size
    )
    return run_training(
        resolved,
        Path(out),
        source=data if isinstance(data, Dataset) else None,
        resume=resume,
        overwrite=overwrite,
        find_batch_size=find_batch_size,
        report=report,
        notes=notes,
    )


def finetune(
    weights: PathLike,
    data: str | Dataset,
    out: PathLike,
    *,
    recipe: str = "auto",
    settings: Settings = (),
    frozen: bool = False,
    sweep: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    find_batch_size: bool = False,
    report: Report = _ignore,
) -> JournalRow:
    """Fine-tune pretrained weights on other images, with a new head of zeros.

        import mlp_mixer as mm

        best = mm.finetune("mixer_b16.goog_in21k", "folder:photos", "runs/photos")
        print(best["top1"])
        print(mm.evaluate("runs/photos", "folder:photos").top1)

    Args:
        weights: What `load` takes, or "scratch" for random weights.
        data: A name or path as `open_dataset` takes it, or an open `Dataset`.
        out: The folder of the run; with `sweep` of the folders of the runs.
        recipe: "auto" chooses by the number and size of the images, "paper" is the
            paper's fine-tuning, or the name of a recipe.
        settings: Fields to change, such as `{"train.epochs": 2}`.
        frozen: Train only the new head on frozen features (a linear probe).
        sweep: "FIELD=A,B,C": one run for each value; the one that is best on the
            validation images wins.
        resume, overwrite, find_batch_size, report: As for `train`.

    Returns:
        The row of the best evaluation, as `train` does; with `sweep` that of the best
        run, whose folder is under the key "run".

    Raises:
        UserError: As for `train`, or the options exclude each other.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    config = finetune_config(weights, data, recipe, settings)
    source = data if isinstance(data, Dataset) else None
    folder = Path(out)
    if frozen:
        if str(weights) == SCRATCH:
            raise UserError(
                "frozen features must come from trained weights: name some, or train "
                "without --frozen"
            )
        if resume or sweep or find_batch_size:
            raise UserError(
                "a linear probe has no steps: leave out --resume, --sweep and "
                "--find-batch-size"
            )
        return fit_head(
            config, folder, source=source, overwrite=overwrite, report=report
        )
    best: JournalRow = {}
    runs = [(folder, config)] if sweep is None else sweep_runs(config, folder, sweep)
    for place, one in runs:
        row = run_training(
            one,
            place,
            source=source,
            resume=resume,
            overwrite=overwrite,
            find_batch_size=find_batch_size,
            report=report,
        )
        if not best or row.get("top1", 0.0) > best.get("top1", 0.0):
            best = row if sweep is None else row | {"run": str(place)}
    return best


def evaluate(
    checkpoint: Checkpoint | PathLike,
    data: str | Dataset,
    *,
    split: Split = "test",
    tta: Tta = "none",
    batch_size: int = 256,
    device: str = "auto",
) -> Evaluation:
    """Measure the accuracy of a checkpoint on labelled images it was not trained on.

        import mlp_mixer as mm

        result = mm.evaluate("runs/digits", "digits")
        print(f"{result.top1:.2%} of {result.n} images ({result.split})")

    Args:
        checkpoint: What `load` takes, or a loaded `Checkpoint`.
        data: A name or path as `open_dataset` takes it, or an open `Dataset`.
        split: "test", "train", or "all" where the data set has no test split.
        tta: Test-time augmentation: "none", "flip" or "shift".
        batch_size: Images at a time.
        device: "auto" is a GPU if there is one.

    Returns:
        `.top1`, `.top5` (fractions), `.loss` (nats), `.n` (images), `.split` (which
        images, in words), and every answer.

    Raises:
        UserError: The checkpoint or the data cannot be used, or the data has classes
            that the model does not know.
    """
    place = pick_device(device)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    chosen, result = evaluate_checkpoint(
        loaded, data, split, batch_size=batch_size, device=place, tta=tta
    )
    return dataclasses.replace(result, split=chosen.split)


def predict(
    checkpoint: Checkpoint | PathLike | Picture | Iterable[Picture],
    pictures: Picture | Iterable[Picture] | None = None,
    *,
    top: int = 5,
    batch_size: int = 32,
    device: str = "auto",
    engine: str = "auto",
    larger: str = "resize",
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
        batch_size, device, engine, larger: As for `Predictor`.

    Returns:
        A `Prediction` or `Failure` for each picture, in order.

    Raises:
        UserError: The checkpoint cannot be loaded, or an option is wrong.
    """
    model: Any = checkpoint
    wanted: Any = pictures
    if wanted is None:
        model, wanted = BUNDLED, checkpoint
    several = isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes))
    # An array is one picture, although it can be iterated.
    if not several or hasattr(wanted, "shape"):
        wanted = [wanted]
    predictor = Predictor(model, device=device, top=top, engine=engine, larger=larger)
    return list(predictor.predict(wanted, batch_size=batch_size))


def export(
    checkpoint: Checkpoint | PathLike,
    path: PathLike,
    to: str = "onnx",
    **options: Any,
) -> dict[str, Any]:
    """Write a checkpoint for another runtime, which reads it back and is compared.

        import mlp_mixer as mm

        report = mm.export("runs/digits", "digits.onnx", to="onnx")
        print(report["rows"][-1]["difference"])

    Args:
        checkpoint: What `load` takes, or a loaded `Checkpoint`.
        path: The file to write; a folder for "timm" and "hf".
        to: "onnx", "openvino", "torch-export", "aoti", "executorch", "timm" or "hf".
        options: As for `mlp_mixer.exporting.export`: int8, calibrate, opset,
            preprocess, check, overwrite.

    Returns:
        What was compared: `path`, `rows`, `images`, `notes`.

    Raises:
        UserError: An option is wrong, a package is missing, or the export answers
            otherwise than torch; then nothing is written.
    """
    if not isinstance(checkpoint, Checkpoint):
        return export_file(checkpoint, path, to, **options)
    with tempfile.TemporaryDirectory() as folder:
        source = save(
            Path(folder) / "checkpoint.safetensors",
            checkpoint.model,
            preprocess=checkpoint.preprocess,
            labels=checkpoint.labels,
            provenance=checkpoint.provenance,
        )
        return export_file(source, path, to, **options)


def resolve_config(
    config: TrainConfig | str | Path,
    *,
    data: str | None = None,
    settings: Settings = (),
    epochs: float | None = None,
    batch_size: int | None = None,
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return a complete configuration, and a sentence for each setting that followed.

    The length and the batch are applied first, then the data, then the settings.

    Raises:
        UserError: There is no such recipe, file or field.
    """
    if isinstance(config, (str, Path)):
        named = str(config)
        config = (
            read_config(Path(named)) if named.endswith(".json") else get_recipe(named)
        )
    config, notes = rescale(config, epochs=epochs, batch_size=batch_size)
    given = {} if data is None else {"data.source": data}
    return override(config, [*assignments(given), *assignments(settings)]), notes


def finetune_config(
    weights: PathLike,
    data: str | Dataset,
    recipe: str = "auto",
    settings: Settings = (),
) -> TrainConfig:
    """Return the configuration with which `finetune` trains.

    Args:
        weights: What `load` takes, or "scratch".
        data: A name or path as `open_dataset` takes it, or an open `Dataset`.
        recipe: "auto", "paper", or the name of a recipe.
        settings: Fields to change.

    Raises:
        UserError: There is no such recipe, data set or field.
    """
    spec = data.spec if isinstance(data, Dataset) else data
    scratch = str(weights) == SCRATCH
    if recipe != "auto" and scratch:
        raise UserError(
            f"{SCRATCH!r} goes with --recipe auto; or `mlp-mixer train RECIPE --data ...` "
            "with any other"
        )
    if recipe == "auto":
        images = open_dataset(data).train
        small = _are_small(images)
        if scratch:
            config = get_recipe(_scratch_recipe(small, images.channels))
            config = override(config, assignments({"data.source": spec}))
        else:
            config = finetune_auto(
                str(weights), spec, len(images), small=small, gpu=cuda_is_available()
            )
    else:
        config = get_recipe("finetune_small" if recipe == "paper" else recipe)
        origin = {"model.init": str(weights), "data.source": spec}
        config = override(config, assignments(origin))
    return override(config, assignments(settings))


def sweep_runs(
    config: TrainConfig, out: Path, sweep: str
) -> Iterator[tuple[Path, TrainConfig]]:
    """Yield the folder and the configuration of each run of a sweep "FIELD=A,B,C".

    Raises:
        UserError: The sweep cannot be read, or there is no such field or value.
    """
    field, separator, values = sweep.partition("=")
    if not separator or not values:
        raise UserError(
            f"cannot read the sweep {sweep!r}: expected FIELD=A,B,C, such as "
            "optim.lr=0.003,0.01,0.03"
        )
    for value in values.split(","):
        yield out / f"{field}={value}", override(config, [f"{field}={value}"])


def best_top1(run: Path) -> float:
    """Return the best validation accuracy (a fraction) in the journal of a run."""
    rows = [row for row in read_journal(run) if row.get("kind") == "eval"]
    return max((float(row.get("top1", 0.0)) for row in rows), default=0.0)


def read_config(path: Path) -> TrainConfig:
    """Read the configuration in a run's config.json.

    Raises:
        UserError: There is no such file, or it is not the config.json of a run.
    """
    values = read_json(path, "configuration", "give the config.json of a run")
    if not isinstance(values, dict) or "config" not in values:
        raise UserError(
            f"cannot read the configuration {str(path)!r}: it holds no 'config'; give "
            "the config.json of a run"
        )
    return from_dict(TrainConfig, values["config"])


def assignments(settings: Settings) -> list[str]:
    """Return settings as `FIELD=VALUE`, with values of a mapping written as JSON."""
    if isinstance(settings, Mapping):
        return [f"{field}={json.dumps(value)}" for field, value in settings.items()]
    return list(settings)


def _are_small(images: Any) -> bool:
    """Whether the images lie in memory and are so small that crops leave too little."""
    if not isinstance(images, ArraySet):
        return False
    return bool(max(images.images.shape[1:3]) <= _SMALL_IMAGE)


def _scratch_recipe(small: bool, channels: int) -> str:
    """The recipe for training such images from random weights."""
    if not small:
        return "photos"
    return "fashion_mnist" if channels == 1 else "cifar10"
