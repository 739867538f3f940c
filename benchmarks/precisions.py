"""What bf16 and int8 cost the bundled networks in accuracy: CIFAR-10's test images.

    python benchmarks/precisions.py cifar10.npz --out benchmarks/precisions.csv

The npz file has x_test, uint8 (n, 32, 32, 3), and y_test, (n,). int8 is what `--fast`
builds. bf16 is computed natively where the processor multiplies in it; elsewhere it is
emulated: weights and what each layer returns are rounded to bf16, and sums are in fp32,
as the instructions have it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlp_mixer.devices import LEAST_BF16_GAIN, bf16_gain
from mlp_mixer.intervals import wilson_interval
from mlp_mixer.machine import commit, cpu_name
from mlp_mixer.models import IsotropicMlp
from mlp_mixer.runtime import Way
from mlp_mixer.runtime.trial import compare
from mlp_mixer.runtime.ways import build
from mlp_mixer.weights import load
from mlp_mixer.weights.catalog import BUNDLED
from mlp_mixer.weights.labels import class_numbers

NETWORKS = (BUNDLED, BUNDLED.with_name("mixer_mini4.cifar110.safetensors"))
BATCH = 256
Run = Callable[[Tensor], Tensor]


def emulated_bf16(model: IsotropicMlp) -> Run:
    """Return a network whose weights and layers' answers are rounded to bf16."""

    def rounded(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output.bfloat16().float()

    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    for module in model.modules():
        module.register_forward_hook(rounded)
    return lambda images: model(images.bfloat16().float())


def ways(path: Path) -> dict[Way, Run]:
    """Return the calls to compare, by what computes; the exact one comes first."""
    model = load(path).model.eval()
    found: dict[Way, Run] = {Way("torch", "fp32"): model}
    if bf16_gain() >= LEAST_BF16_GAIN:
        for way in (Way("torch", "bf16"), Way("openvino", "bf16")):
            found[way] = build(model, way)
    else:
        found[Way("emulated", "bf16")] = emulated_bf16(load(path).model.eval())
    for way in (Way("onnxruntime", "int8"), Way("openvino", "int8")):
        found[way] = build(model, way)
    return found


@torch.inference_mode()
def rows(path: Path, pixels: np.ndarray, labels: Tensor) -> list[dict[str, Any]]:
    """Measure one network in every precision."""
    checkpoint = load(path)
    x_BCHW = torch.stack([checkpoint.preprocess(image) for image in pixels])
    expected = torch.empty(0)
    found = []
    for (engine, precision), run in ways(path).items():
        logits = torch.cat([run(part) for part in torch.split(x_BCHW, BATCH)])
        if precision == "fp32":
            expected = logits
        difference, changed = compare(logits, expected)
        right = int((logits.argmax(1) == labels).sum())
        low, high = wilson_interval(right, len(labels))
        found.append(
            {
                "weights": path.stem,
                "precision": precision,
                "engine": engine,
                "images": len(labels),
                "right": right,
                "top1_low": f"{low:.4f}",
                "top1_high": f"{high:.4f}",
                "other_class_than_fp32": changed,
                "largest_difference": f"{difference:.4g}",
                "rms_difference": f"{_rms(logits, expected):.4g}",
                "torch": torch.__version__,
                "device": cpu_name(),
                "commit": commit(),
            }
        )
        print(found[-1], flush=True)
    return found


def _rms(logits: Tensor, expected: Tensor) -> float:
    """Return the root mean square difference in units of the logits' own."""
    return ((logits - expected).norm() / expected.norm()).item()


def main() -> None:
    """Measure both networks and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with np.load(asked.data) as arrays:
        pixels = arrays["x_test"][: asked.images]
        own = arrays["y_test"].ravel()[: asked.images].astype(np.int64)
    names = load(BUNDLED).class_names()
    assert names is not None
    found = []
    for path in NETWORKS:
        known = class_numbers(load(path).class_names() or ())
        numbers = torch.tensor([known[name] for name in names])
        found += rows(path, pixels, numbers[torch.from_numpy(own)])
    if asked.out is not None:
        with asked.out.open("w", newline="") as file:
            table = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(found)


if __name__ == "__main__":
    main()
