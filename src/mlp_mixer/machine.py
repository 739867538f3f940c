"""Facts about the machine and the program: what numbers are worth depends on them.

A run writes them beside its results, a benchmark beside its times, and `mlp-mixer
doctor` prints them for a bug report.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._version import DISTRIBUTION, __version__
from .errors import without_secrets


def environment(device: torch.device) -> dict[str, Any]:
    """Return where a program runs: versions, hardware, threads and its command.

    Args:
        device: The device that it computes on.

    Returns:
        JSON values by name; "commit" may be None.
    """
    name = f"{device.type} ({cpu_name()})"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "mlp_mixer": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(terse=True),
        "device": name,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": without_secrets(" ".join(["mlp-mixer", *sys.argv[1:]])),
    }


def installed_as() -> str:
    """Return the distribution that this package was installed as, and its version."""
    try:
        return f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}"
    except importlib.metadata.PackageNotFoundError:
        return f"not installed as {DISTRIBUTION}"


def another_package() -> str | None:
    """Return what is wrong where a package "mlp-mixer" is installed, None where not.

    On the package index that name is of somebody else, whose package has our import name
    as well. Whichever of the two was installed last has replaced files of the other.
    """
    try:
        other = importlib.metadata.distribution("mlp-mixer")
    except importlib.metadata.PackageNotFoundError:
        return None
    owner = "another project's package with the same import name"
    if any(entry.value == "mlp_mixer.cli:main" for entry in other.entry_points):
        owner = "this package under its former name"
    return (
        f"mlp-mixer {other.version} is {owner}: run pip uninstall mlp-mixer, then install "
        f"{DISTRIBUTION} again"
    )


def commit() -> str | None:
    """Return the commit of the checkout that holds this package.

    Without a checkout it is what the environment variable MLP_MIXER_COMMIT says: a copy
    of the sources on another machine leaves its history behind. None without either.
    """
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("MLP_MIXER_COMMIT", "").strip() or None
    return done.stdout.strip()


def cpu_name() -> str:
    """Return the name of the processor, such as "AMD EPYC 7763"."""
    # Linux has the name only there: platform.processor() is "x86_64" or empty.
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
