"""`mlp-mixer doctor`: facts for a bug report."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from .arguments import Json
from .console import print_json, print_table

# fmt: off
_LIBRARIES = (
    "torch", "torchvision", "triton", "numpy", "pillow", "simplejpeg",
    "safetensors", "h5py", "huggingface-hub", "timm", "transformers",
    "onnx", "onnxruntime", "openvino",
    "fastapi", "uvicorn",
    "datasets", "pyarrow", "fsspec",
    "tensorboard",
)
# fmt: on
_SWITCHES = (
    "MLP_MIXER_CACHE",
    "MLP_MIXER_OFFLINE",
    "MLP_MIXER_SHARD_CACHE",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
)


def doctor(as_json: Json = False) -> int:
    """Print versions, devices, memory, caches and switches.

    Nothing in it names you, except the paths.
    """
    facts = _facts()
    if as_json:
        print_json(facts)
        return 0
    for title, rows in facts.items():
        texts = [(name, str(value)) for name, value in rows.items()]
        print_table({title: "left", "": "left"}, texts)
    return 0


def _facts() -> dict[str, dict[str, Any]]:
    from huggingface_hub import constants

    from ..files import cache_folder

    hub_cache = Path(constants.HF_HUB_CACHE)
    return {
        "system": _system(),
        "devices": _devices(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "caches": {"mlp_mixer": _folder(cache_folder()), "hub": _folder(hub_cache)},
        "switches": {name: os.environ.get(name, "not set") for name in _SWITCHES},
    }


def _system() -> dict[str, str]:
    import torch

    from ..machine import another_package, environment, installed_as

    here = environment(torch.device("cpu"))
    installed = {"installed as": installed_as()}
    if other := another_package():
        installed["beware"] = other
    return {
        "mlp-mixer": here["mlp_mixer"],
        **installed,
        "commit": here["commit"] or "not in a checkout",
        "python": f"{here['python']} ({sys.executable})",
        "system": platform.platform(),
        "memory": _memory(),
        "CUDA of torch": torch.version.cuda or "none",
    }


def _devices() -> dict[str, str]:
    import torch

    from ..machine import cpu_name

    # The instruction set decides how fast a CPU computes: "AVX512", "DEFAULT", ...
    instructions = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    processor = f"{cpu_name()}, {os.cpu_count()} cores, {threads} threads"
    devices = {"cpu": f"{processor}, {instructions}"}
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        devices[f"cuda:{number}"] = (
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability "
            f"{facts.major}.{facts.minor}"
        )
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple's GPU"
    return devices


def _version(library: str) -> str:
    # Imported here: every command imports this file.
    import importlib.metadata

    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return "unknown"
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{size / 2**30:.1f} GiB"


def _folder(path: Path) -> str:
    """Return its path, how much it holds, and how much more the disk can hold."""
    held = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                held += Path(folder, name).stat().st_size
    # A cache that does not exist yet would be created below one of these. A Path raises
    # where the home is another user's, as it is in containers.
    places = map(str, (path, *path.parents))
    existing = [place for place in places if os.path.isdir(place)]  # noqa: PTH112
    free = shutil.disk_usage(existing[0] if existing else ".").free
    return f"{path} ({held / 1e9:.2f} GB, {free / 1e9:.0f} GB free)"
