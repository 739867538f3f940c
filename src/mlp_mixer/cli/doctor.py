"""`mlp-mixer doctor`: what to paste into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import print_json, print_table

_LIBRARIES = (
    "torch", "torchvision", "triton", "numpy", "pillow", "simplejpeg", "safetensors", "h5py", "huggingface-hub", "timm",
    "transformers", "onnx", "onnxruntime", "openvino", "fastapi", "uvicorn", "datasets", "pyarrow", "fsspec",
    "tensorboard",
)  # fmt: skip
_SWITCHES = (
    "MLP_MIXER_CACHE",
    "MLP_MIXER_OFFLINE",
    "MLP_MIXER_SHARD_CACHE",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Print versions, devices, memory, caches and switches; nothing in it names you but
    the paths.
    """
    facts = _facts()
    if as_json:
        print_json(facts)
        return 0
    for title, rows in facts.items():
        print_table(
            {title: "left", "": "left"},
            [(name, str(value)) for name, value in rows.items()],
        )
    return 0


def _facts() -> dict[str, dict[str, Any]]:
    import torch

    from .._version import __version__
    from ..files import cache_folder

    devices: dict[str, Any] = {
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_instructions()}"
    }
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = (
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability {facts.major}.{facts.minor}"
        )
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple's GPU"
    system = {
        "mlp-mixer": __version__,
        "python": f"{sys.version.split()[0]} ({sys.executable})",
    }
    system |= {
        "system": platform.platform(),
        "memory": _memory(),
        "CUDA of torch": torch.version.cuda or "none",
    }
    return {
        "system": system,
        "devices": devices,
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "caches": {"mlp_mixer": _folder(cache_folder()), "hub": _folder(_hub_cache())},
        "switches": {name: os.environ.get(name, "not set") for name in _SWITCHES},
    }


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _instructions() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _memory() -> str:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _folder(path: Path) -> str:
    """Its path, what it holds, and the room that is left where it is or would be."""
    held = (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else 0
    )
    there = next(
        (parent for parent in (path, *path.parents) if parent.is_dir()), Path()
    )
    return f"{path} ({held / 1e9:.2f} GB, {shutil.disk_usage(there).free / 1e9:.0f} GB free)"
