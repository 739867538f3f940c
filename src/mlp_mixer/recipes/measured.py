"""What was measured of which recipe, so that `mlp-mixer recipes` can say so.

A recipe without a row here was never run in full by this project; its docstring says
whose claim it repeats.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """The accuracy that a recipe reached.

    Attributes:
        dataset: The images.
        top1: Test top-1 accuracy in percent, the mean over the runs.
        runs: How many runs, each with a seed of its own.
        sd: Standard deviation over the runs in percentage points; None for one run.
        n: Test images of each run.
        cost: Time and hardware of one run.
        remark: How the run differed from the recipe as it stands, if it did.
    """

    dataset: str
    top1: float
    runs: int
    sd: float | None
    n: int
    cost: str
    remark: str = ""

    def __str__(self) -> str:
        spread = "" if self.sd is None else f" ± {self.sd:g}"
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        return f"{self.top1:.1f}{spread} % ({runs}, n = {self.n:,})"


MEASURED: dict[str, Measurement] = {
    "digits": Measurement(
        "digits", 99.36, 5, 0.25, 347, "50 CPU s of one thread, EPYC (AVX2)"
    ),
    "fashion_mnist": Measurement(
        "Fashion-MNIST", 90.13, 3, 0.32, 10_000, "350 CPU s of one thread, EPYC (AVX2)"
    ),
    "fashion_mnist_12ep": Measurement(
        "Fashion-MNIST", 92.2, 3, 0.2, 10_000, "960 CPU s of one thread, Xeon (AMX)"
    ),
    "fashion_mnist_28ep": Measurement(
        "Fashion-MNIST", 93.66, 3, 0.04, 10_000, "1,960 CPU s of one thread, Xeon (AMX)"
    ),
    "cifar10": Measurement(
        "CIFAR-10", 62.71, 1, None, 10_000, "7 min of two threads, Xeon (AVX-512)"
    ),
    "cifar10_16ep": Measurement(
        "CIFAR-10",
        83.5,
        3,
        0.5,
        10_000,
        "1,070 CPU s of one thread, Xeon (AMX)",
        "13 to 15 of the 16 epochs, on all 50,000 training images",
    ),
    "photos": Measurement(
        "1,800 photos of 10 classes",
        67.8,
        3,
        1.1,
        1000,
        "397 CPU s of one thread, EPYC (AVX2)",
    ),
    "cifar10_50ep": Measurement(
        "CIFAR-10", 86.8, 2, 0.1, 10_000, "3,900 CPU s of one thread, Xeon (AMX)"
    ),
    "cifar110_8ep": Measurement(
        "CIFAR-10 and CIFAR-100",
        65.72,
        1,
        None,
        20_000,
        "6,600 CPU s of one thread, EPYC (AVX2)",
    ),
}
