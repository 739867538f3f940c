"""ImageNet-C as its authors score it: the mean corruption error, mCE.

Hendrycks & Dietterich, arXiv 1903.12261. The errors of each corruption, summed over its
five severities, are divided by AlexNet's, and 15 corruptions are averaged. The four of
the folder `extra` are for validation and do not count. The relative mCE does the same
with what corruptions add to the error on clean images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from ..errors import UserError

# AlexNet's top-1 errors, the mean over the severities (github.com/hendrycks/robustness).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}

# AlexNet's on the clean validation images: 43.5 % in the paper, these digits in
# google-research/robustness_metrics, reports/imagenet_variants.py; 56.522 % are right by
# torchvision's weights, which the authors took.
ALEXNET_CLEAN_ERROR = 0.4348

SEVERITIES = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class CorruptionErrors:
    """Hold how much corruptions harm a model, beside AlexNet.

    Attributes:
        errors: The corruption error (CE) of each of the 15 corruptions that is complete;
            1 is AlexNet's.
        extra: The mean top-1 error of each other corruption that is complete.
        missing: "<corruption>/<severity>" of the 15 that were not measured.
        relative: The relative corruption error of each of the 15 that is complete: what
            it adds to the error on clean images, 1 is what it adds to AlexNet's. Empty
            if the accuracy on clean images was not told.
    """

    errors: dict[str, float]
    extra: dict[str, float]
    missing: tuple[str, ...]
    relative: dict[str, float] = field(default_factory=dict)

    @property
    def mce(self) -> float | None:
        """The mean of the 15 corruption errors; None if one of them is missing."""
        if self.missing:
            return None
        return _mean(self.errors)

    @property
    def relative_mce(self) -> float | None:
        """The mean of the 15 relative errors; None if one of them is missing."""
        if self.missing or not self.relative:
            return None
        return _mean(self.relative)


def corruption_errors(
    top1: Mapping[str, float], clean_top1: float | None = None
) -> CorruptionErrors:
    """Return the corruption errors of a model.

        import mlp_mixer as mm
        from mlp_mixer.data.imagenet import conditions
        from mlp_mixer.evaluation import corruption_errors

        specs = conditions("imagenet_c:PATH")
        top1 = {spec: mm.evaluate("model.safetensors", spec).top1 for spec in specs}
        print(corruption_errors(top1).mce)

    Args:
        top1: The accuracy (a fraction) in each condition, by a path or spec that ends
            in <corruption>/<severity>.
        clean_top1: The accuracy (a fraction) on ImageNet's own validation images, which
            the relative errors need: of `mm.evaluate("model.safetensors",
            "imagenet:PATH")`.

    Raises:
        UserError: A condition is there twice, is none, or has no such accuracy.
    """
    if clean_top1 is not None:
        _check_accuracy("on clean images", clean_top1)
    found: dict[str, dict[str, float]] = {}
    for place, accuracy in top1.items():
        corruption, severity = condition_of(place)
        _check_accuracy(f"in {place!r}", accuracy)
        if severity in found.setdefault(corruption, {}):
            raise UserError(
                f"{corruption}/{severity} was measured twice: give each condition once"
            )
        found[corruption][severity] = 1 - accuracy
    errors = {}
    relative = {}
    missing = []
    for corruption, of_alexnet in ALEXNET_ERRORS.items():
        own = found.get(corruption, {})
        lacking = [severity for severity in SEVERITIES if severity not in own]
        missing += [f"{corruption}/{severity}" for severity in lacking]
        if lacking:
            continue
        errors[corruption] = _mean(own) / of_alexnet
        if clean_top1 is not None:
            added = _mean(own) - (1 - clean_top1)
            relative[corruption] = added / (of_alexnet - ALEXNET_CLEAN_ERROR)
    others = {
        corruption: _mean(own)
        for corruption, own in found.items()
        if corruption not in ALEXNET_ERRORS and len(own) == len(SEVERITIES)
    }
    return CorruptionErrors(errors, others, tuple(missing), relative)


def condition_of(place: str) -> tuple[str, str]:
    """Return the corruption and the severity that a path or spec ends in.

    Args:
        place: Such as "imagenet_c:PATH/weather/fog/3".

    Raises:
        UserError: It does not end so.
    """
    parts = PurePath(place.rpartition(":")[2]).parts
    if len(parts) < 2 or parts[-1] not in SEVERITIES:
        raise UserError(
            f"{place!r} is no condition of ImageNet-C: expected a path that ends in "
            "<corruption>/<severity from 1 to 5>"
        )
    return parts[-2], parts[-1]


def _check_accuracy(where: str, accuracy: float) -> None:
    if not 0 <= accuracy <= 1:
        raise UserError(
            f"the accuracy {where} is {accuracy}: expected a fraction from 0 to 1"
        )


def _mean(by_name: Mapping[str, float]) -> float:
    return sum(by_name.values()) / len(by_name)
