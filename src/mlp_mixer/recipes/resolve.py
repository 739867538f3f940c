"""From what a user names and sets to a complete configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import override
from ..errors import UserError
from ..files import read_json
from ..training.config import TrainConfig, stored_config
from . import get_recipe
from .rescale import rescale

Settings = str | Iterable[str] | Mapping[str, Any]
"""`{"train.epochs": 2}`, or `["train.epochs=2"]` as on the command line."""


def resolve_config(
    config: TrainConfig | str | os.PathLike[str],
    *,
    data: str | None = None,
    settings: Settings = (),
    epochs: float | None = None,
    batch_size: int | None = None,
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return a complete configuration.

    The length and the batch are applied first, then the data, then the settings: so a
    setting has the last word.

    Args:
        config: A recipe's name, the path of a run's config.json, or a configuration.
        data: Images in the place of the recipe's, as `open_dataset` takes them.
        settings: Fields to change.
        epochs: Another length, as `rescale` takes it.
        batch_size: Another batch, as `rescale` takes it.

    Returns:
        The configuration, and a sentence for each setting that followed the length or
        the batch.

    Raises:
        UserError: There is no such recipe, file or field, or a value does not fit.
    """
    if not isinstance(config, TrainConfig):
        name = os.fspath(config)
        is_file = name.endswith(".json")
        config = read_config(Path(name)) if is_file else get_recipe(name)
    config, notes = rescale(config, epochs=epochs, batch_size=batch_size)
    if data is not None:
        # As a mapping, which takes a path to the letter.
        config = override(config, assignments({"data.source": data}))
    return with_settings(config, settings), notes


def repeats(
    config: TrainConfig | str | os.PathLike[str], data: object, settings: Settings
) -> bool:
    """Return whether the images are those that the config.json of a run names.

    Args:
        config: As for `resolve_config`.
        data: Images in their place, if any.
        settings: Fields that were changed.
    """
    if isinstance(config, TrainConfig) or data is not None:
        return False
    fields = [text.partition("=")[0].strip() for text in assignments(settings)]
    return os.fspath(config).endswith(".json") and "data.source" not in fields


def with_settings(config: TrainConfig, settings: Settings) -> TrainConfig:
    """Return a configuration with some fields changed.

    A length in epochs or steps replaces one in images, which would go before it.

    Args:
        config: The configuration.
        settings: Fields to change.

    Raises:
        UserError: There is no such field, or a value does not fit.
    """
    texts = assignments(settings)
    config = override(config, texts)
    fields = {text.partition("=")[0].strip() for text in texts}
    if fields & {"train.epochs", "train.steps"} and "train.images" not in fields:
        config = replace(config, train=replace(config.train, images=None))
    return config


def read_config(path: Path) -> TrainConfig:
    """Read the configuration in a run's config.json.

    Args:
        path: The file.

    Raises:
        UserError: There is no such file, or it is not the config.json of a run.
    """
    values = read_json(path, "configuration", "give the config.json of a run")
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise UserError(
            f"cannot read the configuration {str(path)!r}: it holds no 'config'; give "
            "the config.json of a run"
        )
    return stored_config(values["config"])


def assignments(settings: Settings) -> list[str]:
    """Return settings as `FIELD=VALUE` texts.

    Args:
        settings: Such texts, or a mapping, whose values are written as JSON: so text
            that says "none" or "1,2" stays text.

    Raises:
        UserError: A value of the mapping has a type that no field has.
    """
    if isinstance(settings, str):
        return [settings]
    if not isinstance(settings, Mapping):
        return list(settings)
    texts = []
    for field, value in settings.items():
        try:
            text = json.dumps(value, default=os.fspath)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"cannot set {field!r} to {value!r}: expected a number, a text, a path, "
                "true or false, None, or several of them"
            ) from error
        texts.append(f"{field}={text}")
    return texts


def sweep_runs(
    config: TrainConfig, out: Path, sweep: str
) -> list[tuple[Path, TrainConfig]]:
    """Return the folder and the configuration of each run of a sweep.

    Args:
        config: Of all runs.
        out: The folder of the runs' folders.
        sweep: "FIELD=A,B,C", such as "optim.lr=0.003,0.01,0.03".

    Raises:
        UserError: The sweep cannot be read, or there is no such field or value.
    """
    field, separator, values = sweep.partition("=")
    if not separator or not values:
        raise UserError(
            f"cannot read the sweep {sweep!r}: expected FIELD=A,B,C, such as "
            "optim.lr=0.003,0.01,0.03"
        )
    # All of them before the first run: a mistyped last value must not cost hours.
    runs = []
    for value in dict.fromkeys(values.split(",")):
        setting = f"{field}={value}"
        runs.append((out / setting, with_settings(config, [setting])))
    return runs
