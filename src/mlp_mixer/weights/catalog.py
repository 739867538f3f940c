"""What can be had by name: architectures, published weights, and the bundled ones.

A record says what a file is, and no more than is known: no file was read to write it.
Published accuracies are claims of their sources; None stands for what nobody states.
The Mixers trained on JFT-300M were never published, nor were Google's weights that were
fine-tuned from ImageNet-21k on ImageNet-1k.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..files import cache_folder
from .labels import KEYS

_BUNDLED_FOLDER = Path(__file__).with_name("bundled")

BUNDLED = _BUNDLED_FOLDER / "mixer_nano4.cifar10.safetensors"
"""The bundled weights that answer where no others are named; named as their file."""

START = "mixer_mini4.cifar110"
"""The bundled weights that learning begins with where no others are named."""

BETTER = "mixer_b16.goog_in21k"
"""The weights to download where there are photographs and some time."""


@dataclass(frozen=True)
class PublishedWeights:
    """Describes one published checkpoint.

    Attributes:
        name: Our name for it, `architecture.tag`.
        aliases: What others call it: timm's and mmpretrain's names, big_vision's
            shortcuts, files in Google's bucket.
        architecture: A key of `VARIANTS`; what else the configuration needs (GELU,
            epsilon) belongs to the lineage.
        num_classes: Outputs of the head.
        lineage: The lineage of the tensors' names and layouts.
        filename: Of the file, at its url or in its repository.
        labels: Key for `class_names`, or None if the names of the classes are not
            known, or in the file.
        preprocess: The lineage whose evaluation transform these weights expect, or
            "native" if it is in the file.
        licence: Of the weights, as an SPDX identifier, or "unknown".
        trained_on: The data in truth; up to the first semicolon in short, then the
            evidence and the doubts.
        url: Where the file is, or None if it is on the Hugging Face hub, or bundled.
        hub: The repository there, or None if there is a url.
        sha256: The first hexadecimal digits of the hash, where the file's name states
            them.
        mib: Size of the file in units of 2**20 bytes, to two decimals, where it is
            published.
        paper_row: The row of arXiv 2105.01601 that these weights, or their fine-tuned
            successors, stand for.
        top1: ImageNet-1k top-1 accuracy in percent that was published for them.
        top1_source: Who published it.
        head: How the classifier was trained, where that is known; None leaves it to the
            bias of the file's head.
    """

    name: str
    aliases: tuple[str, ...]
    architecture: str
    num_classes: int
    lineage: Literal["native", "google", "timm", "mmpretrain"]
    filename: str
    labels: Literal["imagenet1k", "imagenet21k_goog"] | None
    preprocess: Literal["native", "google", "timm", "timm_miil", "mmpretrain"]
    licence: str
    trained_on: str
    url: str | None = None
    hub: str | None = None
    sha256: str | None = None
    mib: float | None = None
    paper_row: str | None = None
    top1: float | None = None
    top1_source: str | None = None
    head: Literal["semantic softmax"] | None = None


def find(name: str) -> PublishedWeights | None:
    """Return the record with exactly this name or alias, if there is one.

    Args:
        name: Case matters.
    """
    return _BY_ANY_NAME.get(name)


def is_bundled(name: str) -> bool:
    """Return whether a name is that of weights in the package.

    Args:
        name: Or the path of their file.
    """
    record = find(name)
    if record is not None:
        return record.lineage == "native"
    return Path(name).parent == _BUNDLED_FOLDER


def bundled_path(record: PublishedWeights) -> Path:
    """Return the file of weights in the package.

    Args:
        record: Their record.
    """
    return _BUNDLED_FOLDER / record.filename


def list_models(pattern: str = "*", *, weights: bool = False) -> list[str]:
    """Return the names of architectures, or of weights, that match a pattern.

    Published weights are found by their aliases too (`"mlp-mixer*"` finds mmpretrain's)
    and listed by their own names.

    Args:
        pattern: A shell pattern, such as "mixer_*16".
        weights: List weights, the bundled ones first, instead of the architectures for
            `create_model`.
    """
    if not weights:
        # torch, which the records do not need, is loaded only for this.
        from ..models import variants

        return variants(pattern)
    found = []
    for record in CATALOG.values():
        names = (record.name, *record.aliases)
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            found.append(record.name)
    return found


def cache_place(record: PublishedWeights) -> Path:
    """Return where the file of a record with a url belongs.

    Args:
        record: The record.
    """
    assert record.url is not None, (
        f"{record.name} is in the cache of the Hugging Face hub"
    )
    # Each record has its own folder: Google gives different weights equal file names.
    return cache_folder("weights", record.name, record.filename)


def cached_path(record: PublishedWeights) -> Path | None:
    """Return the file if it is on this machine; no network is asked.

    Args:
        record: The record.

    Returns:
        The file in the package, in our cache, or in that of the Hugging Face hub.
    """
    if record.lineage == "native":
        return bundled_path(record)
    if record.hub is None:
        place = cache_place(record)
        return place if place.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    # It answers with an object of its own where the file is known not to exist.
    found = try_to_load_from_cache(record.hub, record.filename)
    return Path(found) if isinstance(found, str) else None


_TABLE_3 = {
    "B/16 in1k": "Table 3: Mixer-B/16, ImageNet, 224 px, 76.44",
    "L/16 in1k": "Table 3: Mixer-L/16, ImageNet, 224 px, 71.76",
    "B/16 in21k": "Table 3: Mixer-B/16, ImageNet-21k, 224 px, 80.64 after fine-tuning on ImageNet-1k",
    "L/16 in21k": "Table 3: Mixer-L/16, ImageNet-21k, 224 px, 82.89 after fine-tuning on ImageNet-1k",
}


def _native(name: str, num_classes: int, data: str) -> PublishedWeights:
    """Return weights in the package, whose file says the rest."""
    return PublishedWeights(
        name=name,
        aliases=(),
        architecture=name.partition(".")[0],
        num_classes=num_classes,
        lineage="native",
        filename=f"{name}.safetensors",
        labels=None,
        preprocess="native",
        licence="Apache-2.0",
        trained_on=f"{data} from scratch; bundled, and its file says the rest",
    )


def _google(
    model: str,
    folder: str,
    mib: float,
    trained_on: str,
    top1: float | None = None,
    top1_source: str | None = None,
) -> PublishedWeights:
    """Return a file of gs://mixer_models; `model` as in the paper, such as "B/16"."""
    size, patch = model.split("/")
    architecture = _architecture(model)
    data = {"imagenet1k": "in1k", "imagenet21k": "in21k"}.get(folder)
    num_classes = 21843 if data == "in21k" else 1000
    file = f"{folder}/Mixer-{size}_{patch}.npz"
    aliases = [file, f"gs://mixer_models/{file}"]
    if data:
        # big_vision's shortcut, such as B-i1k/16.
        aliases.append(f"{size}-{data.replace('in', 'i')}/{patch}")
    return PublishedWeights(
        name=f"{architecture}.goog_{data or folder + '_in1k'}",
        aliases=tuple(aliases),
        architecture=architecture,
        num_classes=num_classes,
        lineage="google",
        url=f"https://storage.googleapis.com/mixer_models/{file}",
        filename=file.rpartition("/")[2],
        mib=mib,
        labels=KEYS[num_classes],
        preprocess="google",
        licence="Apache-2.0",
        trained_on=trained_on,
        paper_row=_TABLE_3.get(f"{model} {data}"),
        top1=top1,
        top1_source=top1_source,
    )


def _timm(
    model: str,
    our_tag: str,
    timm_tag: str,
    num_classes: int,
    trained_on: str,
    top1: float | None = None,
) -> PublishedWeights:
    """Return a repository of timm on the hub.

    The hash in timm's older file names is that of a .pth, not of this file.
    """
    architecture = _architecture(model)
    miil = timm_tag.startswith("miil")
    theirs = f"{architecture}_224.{timm_tag}"
    paper_row = None if miil else _TABLE_3[f"{model} {our_tag.removeprefix('goog_')}"]
    # timm's page for MIIL's weights says Apache-2.0, MIIL's own page says nothing.
    licence = "unknown" if miil else "Apache-2.0"
    return PublishedWeights(
        name=f"{architecture}.timm_{our_tag}",
        aliases=(theirs, f"timm/{theirs}", f"hf-hub:timm/{theirs}"),
        architecture=architecture,
        num_classes=num_classes,
        lineage="timm",
        hub=f"timm/{theirs}",
        filename="model.safetensors",
        labels=KEYS.get(num_classes),
        preprocess="timm_miil" if miil else "timm",
        licence=licence,
        trained_on=trained_on,
        paper_row=paper_row,
        top1=top1,
        top1_source="timm, results-imagenet.csv" if top1 else None,
        head="semantic softmax" if timm_tag == "miil_in21k" else None,
    )


def _mmpretrain(
    model: str, size: str, sha256: str, trained_on: str, top1: float
) -> PublishedWeights:
    """Return a file of OpenMMLab's model zoo; `size` as it is spelled there."""
    architecture = _architecture(model)
    file = f"mixer-{size}-p16_3rdparty_64xb64_in1k_20211124-{sha256}.pth"
    return PublishedWeights(
        name=f"{architecture}.mmpretrain_in1k",
        aliases=(f"mlp-mixer-{size}-p16_3rdparty_64xb64_in1k",),
        architecture=architecture,
        num_classes=1000,
        lineage="mmpretrain",
        url=f"https://download.openmmlab.com/mmclassification/v0/mlp-mixer/{file}",
        filename=file,
        sha256=sha256,
        labels="imagenet1k",
        preprocess="mmpretrain",
        licence="Apache-2.0",
        trained_on=trained_on,
        paper_row=_TABLE_3[f"{model} in1k"],
        top1=top1,
        top1_source="mmpretrain, configs/mlp_mixer/metafile.yml",
    )


def _architecture(model: str) -> str:
    return "mixer_" + model.replace("/", "").lower()


_IN1K = "ImageNet-1k from scratch, 300 epochs; the paper's own weights"
_IN21K = (
    "ImageNet-21k, 300 epochs; the paper's own weights before fine-tuning: those "
    "fine-tuned on ImageNet-1k were never published (timm#651)"
)
_SAM_B16 = (
    "ImageNet-1k from scratch, with SAM; no strong augmentation (arXiv 2106.01548); a "
    "user measured 68.9 instead of the claimed 77.4, but also 72.6 where timm "
    "measures 76.6 (google-research/vision_transformer#134, unanswered)"
)
_SAM_B32 = (
    "ImageNet-1k from scratch, with SAM; no strong augmentation (arXiv 2106.01548); "
    "unverified"
)
_GSAM = (
    "ImageNet-1k from scratch, with GSAM (unverified); the ViTs of this release "
    "validated very poorly (timm#1302), and we know of no check of its Mixers (arXiv "
    "2203.08065)"
)
_MISNAMED = (
    "ImageNet-1k from scratch; timm's name goog_in21k_ft_in1k is wrong: its {} is the "
    "paper's from-scratch row ({}), not the fine-tuned one ({}), whose weights were "
    "never published, as an author says in timm#651"
)
_MISNAMED_B16 = _MISNAMED.format(76.616, 76.44, 80.64)
_MISNAMED_L16 = _MISNAMED.format(72.084, 71.76, 82.89)
_CONVERTED = "ImageNet-21k, 300 epochs; Google's imagenet21k file under timm's names"
_MIIL_21K = (
    "ImageNet-21K-P (11,221 classes), by Alibaba MIIL; with semantic softmax (arXiv "
    "2104.10972): one softmax over all classes gives no probabilities"
)
_MIIL_1K = (
    "ImageNet-21K-P, then fine-tuned on ImageNet-1k, by Alibaba MIIL; arXiv "
    "2104.10972, timm#651"
)
_MM_B16 = (
    "ImageNet-1k from scratch, by Google; converted from timm's "
    "jx_mixer_b16_224-76587d61.pth; the 64xb64 of the name is a configuration that "
    "did not train it"
)
_MM_L16 = (
    "ImageNet-1k from scratch, by Google; converted from timm (the metafile names "
    "timm's B/16 of ImageNet-21k as the origin, which has other shapes); the 64xb64 "
    "of the name is a configuration that did not train it"
)
_PAPER = "arXiv 2105.01601, Table 3"
_SAM = "arXiv 2106.01548, as quoted in google-research/vision_transformer#134"

_RECORDS = (
    _native(BUNDLED.stem, 10, "CIFAR-10"),
    _native(START, 110, "CIFAR-10 and CIFAR-100"),
    #       model  folder         MiB     trained on  top-1
    _google("B/16", "imagenet1k", 228.47, _IN1K, 76.44, _PAPER),
    _google("L/16", "imagenet1k", 794.29, _IN1K, 71.76, _PAPER),
    _google("B/16", "imagenet21k", 289.61, _IN21K),
    _google("L/16", "imagenet21k", 875.78, _IN21K),
    _google("B/16", "sam", 228.47, _SAM_B16, 77.4, _SAM),
    _google("B/32", "sam", 230.04, _SAM_B32),
    _google("B/16", "gsam", 228.47, _GSAM),
    _google("B/32", "gsam", 230.04, _GSAM),
    _google("S/16", "gsam", 70.71, _GSAM),
    _google("S/32", "gsam", 72.91, _GSAM),
    _google("S/8", "gsam", 78.79, _GSAM),
    #     model  our tag      timm's tag            classes  trained on  top-1
    _timm("B/16", "goog_in1k", "goog_in21k_ft_in1k", 1000, _MISNAMED_B16, 76.616),
    _timm("L/16", "goog_in1k", "goog_in21k_ft_in1k", 1000, _MISNAMED_L16, 72.084),
    _timm("B/16", "goog_in21k", "goog_in21k", 21843, _CONVERTED),
    _timm("L/16", "goog_in21k", "goog_in21k", 21843, _CONVERTED),
    _timm("B/16", "miil_in21k", "miil_in21k", 11221, _MIIL_21K),
    _timm("B/16", "miil_in21k_ft_in1k", "miil_in21k_ft_in1k", 1000, _MIIL_1K, 82.314),
    #           model  size    sha256      trained on  top-1
    _mmpretrain("B/16", "base", "1377e3e0", _MM_B16, 76.68),
    _mmpretrain("L/16", "large", "5a2519d2", _MM_L16, 72.34),
)

CATALOG: dict[str, PublishedWeights] = {record.name: record for record in _RECORDS}
"""The bundled weights, and every published MLP-Mixer that we know of, by our name."""

START_HERE: dict[str, str] = {
    START: (
        "bundled, works offline: to learn your own pictures from, in minutes on a CPU; "
        "`finetune` and `pretrain` take it where no weights are named"
    ),
    BUNDLED.stem: (
        "bundled, works offline: ten classes, for a first try of `predict` and `serve`"
    ),
    "mixer_b16.goog_in21k": (
        "to fine-tune on photos where there is a GPU; learnt from ImageNet-21k; a "
        "download of 290 MiB; Apache-2.0"
    ),
    "mixer_b16.goog_in1k": (
        "to name the 1,000 classes of ImageNet at once, without any training; a download "
        "of 228 MiB; Apache-2.0"
    ),
}
"""The weights to begin with, and when to take which."""

_BY_ANY_NAME = {
    name: record for record in _RECORDS for name in (record.name, *record.aliases)
}
