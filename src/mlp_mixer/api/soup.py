"""Average finished runs: what `mlp-mixer average` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..config import to_dict
from ..data import Dataset, open_dataset
from ..data.image_set import ImageSet
from ..data.seen import SeenImages
from ..devices import pick_device
from ..errors import UserError, without_secrets
from ..evaluation import Evaluation, align_labels, choose_min_score
from ..evaluation import evaluate as run_evaluation
from ..files import PathLike, write_bytes
from ..training.config import DataChoice
from ..training.splits import split_validation
from ..weights.average import check_alike, mean_weights
from ..weights.checkpoint import StoredWeights, native_bytes
from ..weights.convert import check_place
from ..weights.loading import read_weights
from ..weights.scores import score_kind

# Of a checkpoint's record of its data, what decides which images it has never seen.
_SPLIT = ("fingerprint", "split_seed", "split_by", "test_fraction", "val_fraction")

Told = Callable[[str, "Evaluation"], None]


@dataclass(frozen=True)
class Average:
    """Says what was written.

    Attributes:
        path: The checkpoint.
        used: The ingredients that are in it, as they were named.
        top1: The validation accuracy of each ingredient by its name; {} without data.
        average_top1: That of the average; None without data.
        n: How many validation images there were.
    """

    path: Path
    used: tuple[str, ...]
    top1: dict[str, float]
    average_top1: float | None
    n: int


def _silent(name: str, result: Evaluation) -> None:
    """Tell nobody: the default."""


def average(
    sources: Sequence[PathLike],
    out: PathLike,
    *,
    data: str | Dataset | None = None,
    greedy: bool = False,
    overwrite: bool = False,
    batch_size: int = 256,
    device: str = "auto",
    report: Told = _silent,
) -> Average:
    """Write the average of the weights of several runs: a model soup.

        import mlp_mixer as mm

        soup = mm.average(["runs/a", "runs/b"], "soup.safetensors", data="digits")
        print(soup.top1, soup.average_top1)

    It helps where the runs began with the same weights, such as fine-tunings with other
    seeds or rates (Wortsman et al. 2022, arXiv 2203.05482).

    Args:
        sources: What `load` takes, at least two; of a run the best checkpoint.
        out: The .safetensors file to write.
        data: The dataset of the runs: measures each of them, and the average, on its
            validation images. Test images are never looked at.
        greedy: Begin with the best, and add the others in order of accuracy, each only
            if the average gets no worse; needs `data`.
        overwrite: Replace `out`.
        batch_size: Images at a time.
        device: "auto" is a GPU if there is one.
        report: Is called with the name and result of each evaluation; the average is
            called "average".

    Returns:
        What was written, and what was measured.

    Raises:
        UserError: The networks differ in more than their weights, `out` exists, or the
            validation images are not the same for all.
    """
    names = [str(source) for source in sources]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"an average is of two different runs or more, got {', '.join(names)}"
        )
    if greedy and data is None:
        raise UserError(
            "greedy chooses by validation images: name the runs' dataset too (data)"
        )
    target = Path(out)
    for source in sources:
        check_place(target, "native", Path(source), overwrite)
    stored = {name: read_weights(name) for name in names}
    check_alike(stored)
    origins = {name: one.provenance for name, one in stored.items()}
    common = _common_split(origins)
    evaluator = None
    if data is not None:
        images = _validation_images(data, origins, common)
        place = pick_device(device)
        evaluator = _Evaluator(images, batch_size, place, report)

    used = names
    top1: dict[str, float] = {}
    if evaluator is not None:
        top1 = {name: evaluator.top1(name, one) for name, one in stored.items()}
        if greedy:
            used = _greedy(stored, top1, evaluator)
    mean = mean_weights([stored[name] for name in used])
    provenance = _provenance({name: origins[name] for name in used}, common)
    result = None
    if evaluator is not None:
        result = evaluator(mean, score_kind(provenance, mean.config.num_classes))
        report("average", result)
        provenance |= _measured(result)
    mean = dataclasses.replace(mean, provenance=provenance)
    write_bytes(target, native_bytes(mean))
    return Average(
        path=target,
        used=tuple(used),
        top1=top1,
        average_top1=None if result is None else result.top1,
        n=0 if result is None else result.n,
    )


@dataclass(frozen=True)
class _Evaluator:
    """Measures weights on validation images."""

    images: ImageSet
    batch_size: int
    device: torch.device
    report: Told

    def __call__(self, stored: StoredWeights, head: str) -> Evaluation:
        checkpoint = stored.build()
        labels = None
        if stored.labels is not None:
            labels = align_labels(self.images, stored.labels)
        return run_evaluation(
            checkpoint.model.to(self.device),
            self.images,
            stored.preprocess,
            labels=labels,
            batch_size=self.batch_size,
            head=head,
        )

    def top1(self, name: str, stored: StoredWeights) -> float:
        """Measure and report one ingredient."""
        result = self(stored, score_kind(stored.provenance, stored.config.num_classes))
        self.report(name, result)
        return result.top1


def _greedy(
    stored: Mapping[str, StoredWeights],
    top1: Mapping[str, float],
    evaluator: _Evaluator,
) -> list[str]:
    """Return the ingredients that recipe 1 of the paper takes."""
    best, *others = sorted(top1, key=lambda name: -top1[name])
    used = [best]
    reached = top1[best]
    head = score_kind(stored[best].provenance)
    for name in others:
        tried = [stored[one] for one in (*used, name)]
        result = evaluator(mean_weights(tried), head).top1
        if result >= reached:
            used.append(name)
            reached = result
    return used


def _common_split(origins: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the record of the data that all have learnt from, split alike.

    None: they have learnt from different images.
    """
    records = [origin.get("data") for origin in origins.values()]
    first = records[0]
    for record in records:
        if not isinstance(record, dict) or not isinstance(first, dict):
            return None
        if any(record.get(key) != first.get(key) for key in _SPLIT):
            return None
    return first


def _validation_images(
    data: str | Dataset,
    origins: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any] | None,
) -> ImageSet:
    """Return the images that chose each ingredient's best checkpoint."""
    if common is None:
        raise UserError(
            "no images can evaluate all of these: they have learnt from different images or "
            f"split them differently ({', '.join(origins)}); leave the data away, or "
            "average runs with one split"
        )
    choice = DataChoice(
        split_seed=common["split_seed"],
        val_fraction=common["val_fraction"],
        test_fraction=common["test_fraction"] or DataChoice.test_fraction,
        # Runs of 0.1.0 do not say it.
        split_by=common.get("split_by", "position"),
    )
    dataset = open_dataset(
        data,
        split_seed=choice.split_seed,
        test_fraction=choice.test_fraction,
        split_by=choice.split_by,
    )
    if dataset.fingerprint() != common["fingerprint"]:
        raise UserError(
            f"these runs have learnt from other images than those of {dataset.spec!r}, "
            "so its validation images are not known; name the runs' own dataset"
        )
    _, images = split_validation(dataset, choice)
    if images is None:
        raise UserError(
            "the runs have no validation images (data.val_fraction is 0); leave the data "
            "away"
        )
    return images


def _provenance(
    origins: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return where the average comes from."""
    parts = []
    for name, origin in origins.items():
        kept = ("recipe", "model", "seed", "epochs", "measured", "averaged")
        facts = {key: origin[key] for key in kept if key in origin}
        parts.append({"name": _public_name(name), **facts})
    record: dict[str, Any] = {"averaged": parts}
    models = {origin.get("model") for origin in origins.values()}
    if len(models) == 1 and None not in models:
        record["model"] = models.pop()
    seen = _seen(origins)
    first = next(iter(origins.values()))
    # Of different records the first: which images are new, `seen` knows of all of them.
    data = common or first.get("data")
    if data is not None:
        record["data"] = dict(data)
    if seen is not None:
        record["seen"] = seen.to_json()
    # Published weights say nothing of their data, and neither does their average.
    elif common is None and any("data" in one for one in origins.values()):
        raise UserError(
            "these have learnt from different images and do not say from which "
            f"({', '.join(origins)}), so nobody could evaluate their average fairly; "
            "average runs on one dataset with one split"
        )
    record["head"] = score_kind(first)
    record["mlp_mixer"] = __version__
    record["torch"] = torch.__version__
    return record


def _seen(origins: Mapping[str, Mapping[str, Any]]) -> SeenImages | None:
    """Return the images that any of them has learnt from; None if one does not say."""
    union = SeenImages.of()
    for origin in origins.values():
        own = SeenImages.from_provenance(origin)
        if own is None:
            return None
        union |= own
    return union


def _measured(result: Evaluation) -> dict[str, Any]:
    """Return the average's own numbers, as a run's checkpoint has them."""
    record: dict[str, Any] = {
        "measured": {
            "split": "val",
            "top1": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "n": result.n,
        }
    }
    chosen = choose_min_score(result.scores, result.predictions == result.labels)
    if chosen is not None:
        record["min_score"] = to_dict(chosen)
    return record


def _public_name(source: str) -> str:
    """Return the name of a run or file without the folders above it."""
    path = Path(without_secrets(source))
    return path.parent.name if path.stem in ("best", "last") else path.name
