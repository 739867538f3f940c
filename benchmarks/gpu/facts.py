"""Print the facts of a GPU as a row: versions, and what it multiplies and copies.

python benchmarks/gpu/facts.py DEVICE
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from typing import Any

import torch

from mlp_mixer.bench.measure import roofline
from mlp_mixer.bench.run import PACKAGES
from mlp_mixer.kernels import why_not, why_not_fp8
from mlp_mixer.machine import environment
from mlp_mixer.models import create_model


def versions() -> dict[str, str]:
    """Return the versions of what a bench compares."""
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    return {name: importlib.metadata.version(name) for name in installed}


def facts(device: torch.device) -> dict[str, Any]:
    """Return what later rows are worth nothing without."""
    model = create_model("mixer_pico2")
    found: dict[str, Any] = {
        **environment(device),
        "versions": versions(),
        "cuda": torch.version.cuda,
        "not_fused": why_not(model, device),
        "not_fp8": why_not_fp8(model, device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["multiprocessors"] = properties.multi_processor_count
        found["memory_gib"] = round(properties.total_memory / 2**30, 1)
    return found


def main() -> None:
    """Print a row for the facts, and one for each rate that was measured."""
    device = torch.device(sys.argv[1])
    print("ROW", json.dumps(facts(device)), flush=True)
    # On the CPU of a rehearsal a large product in bf16 takes seconds.
    dtypes = ("bf16", "fp16", "fp32") if device.type == "cuda" else ("fp32",)
    for dtype in dtypes:
        rates = roofline(device, dtype)
        print("ROW", json.dumps({"dtype": dtype, **rates}), flush=True)


if __name__ == "__main__":
    main()
