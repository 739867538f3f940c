"""From a path or a name to weights under our names, with all that belongs to them.

A file is either ours, and then says everything about itself (`load_native`), or another
project's (`load_foreign`). Then its lineage is recognised by the names of its tensors,
the architecture follows from their shapes, and what neither says (class names,
preprocessing) comes from `config.json`, the catalog, or the lineage's custom.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from ..errors import UserError, unknown
from ..files import PathLike
from ..images.preprocess import Preprocess
from ..models.base import NetworkConfig, size_pair
from ..models.mixer import VARIANTS
from ..untrusted.text import parse_json
from .catalog import PublishedWeights
from .channels import with_channels
from .checkpoint import KEY, Checkpoint, StoredWeights, read_native
from .choose import Found, choose_network
from .file_labels import file_labels
from .formats import containers, memory
from .formats.contents import Contents
from .given_labels import GivenLabels
from .huggingface import folder
from .lineages import pretrained_cfg, timm_families, translate
from .lineages.tables import LINEAGES
from .lineages.transforms import eval_preprocess
from .locate import find_file
from .seal import check_sum

# Heads trained with sigmoid cross-entropy start at a bias of -6.9 (big_vision) or -10
# (GSAM) and stay far below 0; softmax does not move the mean of the biases.
_SIGMOID_BIAS = -3.0

_SAME_AS_PUBLISHED = (
    "patch_size",
    "num_blocks",
    "hidden_dim",
    "tokens_mlp_dim",
    "channels_mlp_dim",
    "num_classes",
    "image_size",
)

Size = tuple[int, int]

Weights = PathLike | Mapping[str, Any] | BinaryIO
"""What `load` takes: a path or a name, tensors in memory, or an open file."""


@dataclass(frozen=True)
class WeightsFile:
    """Holds what was read, before anyone knows whose it is.

    Attributes:
        name: What its provenance calls it; None for what was in memory.
        source: What errors call it.
        contents: Tensors and metadata as they are stored.
        described: The `config.json` beside the tensors, if there is one.
        record: What the catalog says, if the weights are published ones.
    """

    name: str | None
    source: str
    contents: Contents
    described: Mapping[str, Any] = field(default_factory=dict)
    record: PublishedWeights | None = None


def load(
    weights: Weights,
    *,
    key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    lineage: str | None = None,
    labels: GivenLabels | None = None,
    channels: int | None = None,
) -> Checkpoint:
    """Load weights of any lineage: the model, its preprocessing and its class names.

    The network is found wherever it lies in a file, under any keys and prefixes. Of a
    network and its average the average is taken; between others, such as a student and
    its teacher, `key` chooses. The architecture comes from the shapes; GELU form, norm
    epsilon and final norm come from the lineage. `provenance` says which lineage the
    file belongs to, with `head` whether the scores are "softmax" or "sigmoid", and with
    `notes` what was chosen, guessed and left out.

    Args:
        weights: A file (npz, safetensors, pt, pth, bin, h5, keras), the folder of a
            training run or of the Hugging Face convention, a name of
            `list_models(weights=True)` or one of its aliases, `hf-hub:OWNER/NAME`,
            `local-dir:FOLDER`, or a URL. Also from memory: tensors by name, in nested
            dicts or not, which are copied; or a file that is open in binary mode.
        key: Where in the file the network is, such as "teacher" or "state_dict.net".
        image_size: Side or (height, width) in pixels that the weights were made for,
            where their shapes leave it open (a grid that is no square, a flattened
            stem). It is only stated: nothing is resized.
        lineage: The lineage of the file, if it should not be recognised: a key of
            `weights.lineages.tables.LINEAGES`, or "native".
        labels: The names of the classes in the order of the logits, instead of those in
            the file: a list, a file, "a,b,c", or the `class_to_idx` of torchvision.
        channels: Of the images, if the weights were made for others: the kernels of the
            stem are summed for one, repeated for more, as by timm's `in_chans`.

    Returns:
        The model in evaluation mode (fp32, CPU) with what belongs to it.

    Raises:
        UserError: There is no such file or name, or the file is damaged, hostile, or
            neither a Mixer nor one of timm's gMixers, ResMLPs and gMLPs; or it holds
            several networks, none of which is preferred; or the labels do not fit it.
    """
    return read_weights(
        weights,
        key=key,
        image_size=image_size,
        lineage=lineage,
        labels=labels,
        channels=channels,
    ).build()


def read_weights(
    weights: Weights,
    *,
    key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    lineage: str | None = None,
    labels: GivenLabels | None = None,
    channels: int | None = None,
) -> StoredWeights:
    """Read weights as `load` does, but build no network.

    Args:
        weights: As for `load`.
        key: As for `load`.
        image_size: As for `load`.
        lineage: As for `load`.
        labels: As for `load`.
        channels: As for `load`.

    Returns:
        The weights; the tensors keep the dtype they were stored in.

    Raises:
        UserError: As for `load`.
    """
    size = _checked_size(image_size)
    if lineage is not None and lineage not in ("native", *LINEAGES):
        raise unknown("lineage", lineage, ("native", *LINEAGES))
    file = _read(weights)
    ours = _own_description(file)
    if lineage == "native" and not ours:
        raise UserError(
            f"{file.source} was not written by mlp-mixer (no {KEY!r} metadata); leave "
            "the lineage to be recognised"
        )
    # A native file is also a file of timm's names; `lineage="timm"` reads it as such.
    if ours and lineage in (None, "native"):
        if key:
            raise UserError(
                f"{file.source} was written by mlp-mixer and holds one network: leave "
                f"the key {key[:80]!r} out"
            )
        stored = load_native(file, ours, size)
    else:
        stored = load_foreign(file, size, lineage, key)
    # Last, because other complaints about damage are more exact.
    tensors = file.contents.tensors
    if file.contents.container == "safetensors":
        in_order = ((name, tensors[name]) for name in sorted(tensors))
        check_sum(file.contents.metadata, in_order, file.source)
    if labels is not None:
        stored = stored.with_labels(labels)
    return stored if channels is None else with_channels(stored, channels)


def load_native(
    file: WeightsFile, described: Mapping[str, Any], image_size: Size | None
) -> StoredWeights:
    """Interpret a file that mlp-mixer wrote: its description says everything.

    Args:
        file: What was read.
        described: Our own description of it.
        image_size: (height, width) that the user stated.

    Returns:
        The weights.

    Raises:
        UserError: Tensors and description do not fit each other, a number is not
            finite, or the stated size is another one.
    """
    stored = read_native(described, file.contents.tensors, file.source)
    translate.check_numbers(stored.tensors, file.source)
    if image_size not in (None, stored.config.image_size):
        made_for = "x".join(map(str, stored.config.image_size))
        raise UserError(
            f"{file.source} was made for images of {made_for}; a size is only stated, "
            "never changed to"
        )
    return stored


def load_foreign(
    file: WeightsFile,
    image_size: Size | None,
    lineage: str | None,
    key: str | None = None,
) -> StoredWeights:
    """Interpret another project's file: tensors first, then what belongs to them.

    Args:
        file: What was read.
        image_size: (height, width) that the user stated.
        lineage: A key of `LINEAGES`, or None to recognise it.
        key: Where in the file the network is; None to choose by the rule of `choose`.

    Returns:
        The weights under our names.

    Raises:
        UserError: The tensors are no network that we know, the file is not the
            published one that it should be, or its `config.json` is wrong.
    """
    translated = choose_network(
        file.contents,
        file.source,
        key=key,
        lineage=lineage or (file.record.lineage if file.record else None),
        image_size=image_size or folder.image_size(file.described),
    )
    if file.record:
        _check_record(translated.config, file.record, file.source)
    names, assumed = file_labels(
        file.contents,
        file.described,
        file.record,
        lineage=translated.lineage,
        classes=translated.config.num_classes,
    )
    provenance = _provenance(file, translated, assumed)
    preprocess = _preprocess(file, translated)
    return StoredWeights(
        translated.config,
        translated.tensors,
        preprocess,
        names,
        provenance,
        translated.lineage,
    )


def _checked_size(image_size: int | tuple[int, int] | None) -> Size | None:
    if image_size is None:
        return None
    size = size_pair(image_size)
    if len(size) != 2 or min(size) < 1:
        raise UserError(
            f"image_size is {image_size!r}: expected a side, or height and width, of "
            "at least 1 pixel"
        )
    return size


def _read(weights: Weights) -> WeightsFile:
    """Find the file or folder, and read it without interpreting it."""
    if not isinstance(weights, (str, os.PathLike)):
        name, source, contents = memory.read(weights)
        return WeightsFile(name, source, contents)
    path, name, record = find_file(weights)
    source = repr(str(path))
    if path.is_dir():
        contents, described = folder.read_folder(path)
        return WeightsFile(name, source, contents, described, record)
    return WeightsFile(name, source, containers.read(path), record=record)


def _own_description(file: WeightsFile) -> Mapping[str, Any] | None:
    """Return what mlp-mixer wrote about the weights, if it wrote them.

    In a folder it stands in `config.json`, in a single file in its metadata.
    """
    if file.described.get(KEY):
        return file.described[KEY]
    contents = file.contents
    if contents.container != "safetensors" or KEY not in contents.metadata:
        return None
    try:
        described = parse_json(contents.metadata[KEY])
    except ValueError as error:
        raise UserError(
            f"{file.source} is damaged: its description is no JSON ({error})"
        ) from error
    if not isinstance(described, dict):
        raise UserError(
            f"{file.source} is damaged: its description is {repr(described)[:40]}, "
            "expected a JSON object"
        )
    return described


def _check_record(config: NetworkConfig, record: PublishedWeights, source: str) -> None:
    """Refuse a file that is not the network which was published under its name."""
    published = replace(VARIANTS[record.architecture], num_classes=record.num_classes)
    wrong = []
    for name in _SAME_AS_PUBLISHED:
        came = getattr(config, name, 0)
        expected = getattr(published, name)
        if came != expected:
            wrong.append(f"{name} {came} instead of {expected}")
    if wrong:
        raise UserError(
            f"{source} is not {record.name}: it has {', '.join(wrong)}; delete it and "
            "try again"
        )


def _provenance(
    file: WeightsFile, translated: Found, assumed_labels: str
) -> dict[str, Any]:
    """Say where the weights come from, what was assumed, and what their scores are."""
    origin: dict[str, Any] = {"file": file.name} if file.name else {}
    origin["container"] = file.contents.container
    origin["lineage"] = translated.lineage
    if translated.notes:
        origin["notes"] = list(translated.notes)
    if assumed_labels:
        origin["labels"] = assumed_labels
    if "head.bias" in translated.tensors:
        biases = translated.tensors["head.bias"].float()
        yes_or_no = biases.mean() < _SIGMOID_BIAS or len(biases) == 1
        origin["head"] = "sigmoid" if yes_or_no else "softmax"
    if record := file.record:
        if record.head:
            origin["head"] = record.head
        origin["name"] = record.name
        origin["trained_on"] = record.trained_on
        origin["licence"] = record.licence
        origin["source"] = record.url or f"https://huggingface.co/{record.hub}"
    return origin


def _preprocess(file: WeightsFile, translated: Found) -> Preprocess:
    """Return the file's own transform, completed by what its lineage usually does."""
    config = translated.config
    evaluation = LINEAGES[translated.lineage].evaluation
    name = file.record.preprocess if file.record else evaluation
    usual = eval_preprocess(name, config.image_size, config.in_channels)
    # timm normalises the images of some families otherwise than those of Mixers.
    of_family = timm_families.TRANSFORM.get(translated.family, {})
    usual = pretrained_cfg.read_transform(of_family, usual)
    mean = file.contents.metadata.get("mean")
    variance = file.contents.metadata.get("variance")
    if file.contents.container == "h5" and mean and variance:
        return _keras_normalization(mean, variance, usual)
    return pretrained_cfg.read_transform(folder.pretrained(file.described), usual)


def _keras_normalization(
    mean: list[float], variance: list[float], usual: Preprocess
) -> Preprocess:
    """Return what a Normalization layer of Keras does, on values of 0 to 255.

    The example's Resizing layer squashes images to the square, hence no crop.
    """
    means = tuple(value / 255 for value in mean)
    # Keras divides by max(std, 1e-7), so a constant channel does not divide by zero.
    stds = tuple(max(value, 1e-14) ** 0.5 / 255 for value in variance)
    return replace(usual, resize="resize", crop_pct=1.0, mean=means, std=stds)
