"""A path or a name -> tensors under our names with what belongs to them: every
container, every lineage.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError, near_misses
from ..files import PathLike, cache_folder
from ..images.preprocess import Preprocess
from ..models.base import NetworkConfig
from ..models.families import ALL_VARIANTS
from ..models.mixer import VARIANTS
from ..web import fetch, file_name
from . import catalog
from .checkpoint import KEY, Checkpoint, StoredWeights, read_native
from .formats import containers
from .formats.contents import Contents
from .huggingface import folder
from .labels import KEYS, class_names
from .lineages import timm_families, translate
from .lineages.tables import LINEAGES, TIMM, Lineage
from .lineages.transforms import eval_preprocess

_Record = catalog.PublishedWeights | None
_SIGMOID_BIAS = -3.0
"""Heads trained with sigmoid cross-entropy start at a bias of -6.9 (big_vision) or -10
(GSAM), and stay far below 0.
"""


def load(
    path_or_name: PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    lineage: str | None = None,
) -> Checkpoint:
    """Read weights of any lineage: the model in evaluation mode (fp32, CPU) with its
    preprocessing and class names.

    path_or_name: a file (npz, safetensors, pt, pth, bin, h5, keras), the folder of a
        training run or of the Hugging Face convention, a name of
        `list_models(weights=True)` or one of its aliases, `hf-hub:OWNER/NAME`, or a
        URL.
    image_size: side or (height, width) in pixels that the weights were made for, where
        their shapes leave it open (a grid that is no square, a flattened stem). It is
        only stated: nothing is resized.
    lineage: whose names the file uses, if it should not be recognised (a key of
        `weights.lineages.tables.LINEAGES`).

    The architecture comes from the shapes; GELU form, norm epsilon and final norm from
    the lineage. `.provenance` says whose file it was, what was assumed, and with `head`
    whether the scores are "softmax" or "sigmoid". Raises `UserError` if there is no
    such file or name, or the file is damaged, hostile or neither a Mixer nor one of
    timm's gMixers, ResMLPs and gMLPs.
    """
    return read_weights(path_or_name, image_size=image_size, lineage=lineage).build()


def read_weights(
    path_or_name: PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    lineage: str | None = None,
) -> StoredWeights:
    """As `load`, but the tensors in the dtype they were stored in, and no network
    built.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UserError(
            f"image_size is {image_size!r}: expected a side, or height and width, of at least 1 pixel"
        )
    if lineage not in (None, "native", *LINEAGES):
        translate.recognise([], "", lineage)
    path, record = find_file(path_or_name)
    described: Mapping[str, Any] = {}
    if path.is_dir():
        contents, described = folder.read_folder(path)
    else:
        contents = containers.read(path)
    stored = _interpret(contents, described, path, size, lineage, record)
    if "file" in stored.provenance and not os.path.exists(path_or_name):  # noqa: PTH110
        stored.provenance["file"] = str(
            path_or_name
        )  # a name or an address tells more than a file of the cache
    return stored


def find_file(path_or_name: PathLike) -> tuple[Path, _Record]:
    """Where the weights lie (downloaded first if they are published ones), and their
    record.
    """
    path = Path(path_or_name)
    name = str(path_or_name)
    if os.path.isdir(path):  # noqa: PTH112 - these two never raise, whatever the name
        return (
            path / "best.safetensors" if (path / "best.safetensors").is_file() else path
        ), None
    if os.path.exists(path):  # noqa: PTH110
        return path, None
    if record := catalog.find(name):
        return _fetch(record), record
    if name.startswith(("hf-hub:", "hf_hub:")):
        return folder.hub_folder(name.split(":", 1)[1]), None
    if name.startswith(("http://", "https://")):
        slug = hashlib.sha256(name.encode()).hexdigest()[:16]
        return fetch(
            name, cache_folder("weights", "url", slug, file_name(name)), bar=True
        ), None
    if name in ALL_VARIANTS:
        raise UserError(
            f"{name!r} is an architecture without weights of its own; train it, or give a checkpoint"
        )
    close = near_misses(name, catalog.list_models(weights=True))
    hint = (
        f"did you mean {' or '.join(map(repr, close))}?"
        if close
        else "see `mlp-mixer models --weights`"
    )
    raise UserError(
        f"no checkpoint at {name[:300]!r}, and no published weights of that name; {hint}"
    )


def _fetch(record: catalog.PublishedWeights) -> Path:
    """The file of published weights, from the cache or the network, checked by its hash
    or size; or the package's.
    """
    if record.lineage == "native":
        return catalog.BUNDLED
    if record.url is None:
        assert record.hub is not None
        return folder.hub_file(record.hub, record.filename)
    path = fetch(
        record.url, catalog.cache_place(record), sha256=record.sha256 or "", bar=True
    )
    mib = path.stat().st_size / 2**20
    if record.mib is not None and abs(mib - record.mib) > 0.01:
        raise UserError(
            f"{str(path)!r} has {mib:.2f} MiB, {record.name} was published with {record.mib}; delete it and try again"
        )
    return path


def _interpret(
    contents: Contents,
    described: Mapping[str, Any],
    path: Path,
    size: tuple[int, int] | None,
    named: str | None,
    record: _Record,
) -> StoredWeights:
    source = repr(str(path))
    own = described.get(KEY) or _own_description(contents, source)
    if named == "native" and not own:
        raise UserError(
            f"{source} was not written by mlp-mixer (no {KEY!r} metadata); leave the lineage to be recognised"
        )
    if own and named in (None, "native"):
        stored = read_native(own, contents.tensors, source)
        translate.check_numbers(stored.tensors, source)
        if size not in (None, stored.config.image_size):
            made = "x".join(map(str, stored.config.image_size))
            raise UserError(
                f"{source} was made for images of {made}; a size is only stated, never changed to"
            )
        return stored
    tensors = translate.plain_names(contents.tensors)
    wanted = named or (record.lineage if record else None)
    size = size or folder.image_size(described)
    family = timm_families.family_of(tensors) if wanted in (None, TIMM.name) else None
    if family:
        lineage = TIMM
        (config, ours) = timm_families.to_ours(tensors, family, source, size)
    else:
        lineage, prefix = translate.recognise(tensors, source, wanted)
        config, ours = translate.to_ours(tensors, lineage, prefix, source, size)
    labels, assumed = _labels(config.num_classes, lineage, contents, described, record)
    provenance: dict[str, Any] = {
        "file": path.name,
        "container": contents.container,
        "lineage": lineage.name,
    }
    provenance |= {"notes": list(contents.notes)} if contents.notes else {}
    provenance |= {"labels": assumed} if assumed else {}
    if "head.bias" in ours:
        provenance["head"] = (
            "sigmoid" if ours["head.bias"].float().mean() < _SIGMOID_BIAS else "softmax"
        )
    if record:
        _check_record(config, record, source)
        provenance |= {"head": record.head} if record.head else {}
        provenance |= {
            "name": record.name,
            "trained_on": record.trained_on,
            "licence": record.licence,
        }
        provenance |= {"source": record.url or f"https://huggingface.co/{record.hub}"}
    usual = eval_preprocess(
        record.preprocess if record else lineage.evaluation,
        config.image_size,
        config.in_channels,
    )
    preprocess = _preprocess(
        contents,
        described,
        folder.preprocess(timm_families.TRANSFORM.get(family, {}), usual),
    )
    return StoredWeights(config, ours, preprocess, labels, provenance, lineage.name)


def _check_record(
    config: NetworkConfig, record: catalog.PublishedWeights, source: str
) -> None:
    published = replace(VARIANTS[record.architecture], num_classes=record.num_classes)
    same = (
        "patch_size",
        "num_blocks",
        "hidden_dim",
        "tokens_mlp_dim",
        "channels_mlp_dim",
        "num_classes",
        "image_size",
    )
    if wrong := [
        name for name in same if getattr(config, name, 0) != getattr(published, name)
    ]:
        shown = ", ".join(
            f"{name} {getattr(config, name, 0)} instead of {getattr(published, name)}"
            for name in wrong
        )
        raise UserError(
            f"{source} is not {record.name}: it has {shown}; delete it and try again"
        )


def _own_description(contents: Contents, source: str) -> Mapping[str, Any] | None:
    if contents.container != "safetensors" or KEY not in contents.metadata:
        return None
    try:
        described = json.loads(contents.metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source} is damaged: its description is no JSON ({error})"
        ) from error
    if not isinstance(described, dict):
        raise UserError(
            f"{source} is damaged: its description is {described!r}, expected a JSON object"
        )
    return described


def _labels(
    classes: int,
    lineage: Lineage,
    contents: Contents,
    described: Mapping[str, Any],
    record: _Record,
) -> tuple[tuple[str, ...] | None, str]:
    """The class names that come with the weights; else ImageNet's where their number
    can only mean that, and a note.
    """
    meta = contents.metadata.get("dataset_meta")
    given = folder.label_names(described) or (
        meta.get("classes") if isinstance(meta, dict) else None
    )
    given = given or contents.metadata.get("CLASSES")
    if isinstance(given, (list, tuple)) and len(given) == classes:
        return tuple(map(str, given)), ""
    if record:
        return (class_names(record.labels) if record.labels else None), ""
    known = KEYS.get(classes)
    if known and lineage.evaluation in (
        "google",
        "timm",
        "mmpretrain",
    ):  # who published ImageNet weights
        return class_names(
            known
        ), f"assumed to be those of {known}, because there are {classes:,}"
    return None, ""


def _preprocess(
    contents: Contents, described: Mapping[str, Any], usual: Preprocess
) -> Preprocess:
    """What the file says; else what is usual in its lineage at evaluation."""
    mean = contents.metadata.get("mean")
    variance = contents.metadata.get("variance")
    if (
        contents.container == "h5" and mean and variance
    ):  # a Normalization layer of Keras, on values of 0-255
        std = tuple(max(value, 1e-14) ** 0.5 / 255 for value in variance)
        return replace(
            usual,
            resize="resize",
            crop_pct=1.0,
            mean=tuple(v / 255 for v in mean),
            std=std,
        )
    return folder.preprocess(described, usual)
