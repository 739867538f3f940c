"""The kernels' arithmetic without a GPU: Triton's interpreter runs them on the CPU.

It must be asked for before anything imports Triton, so the files in `interpreted/` run
in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton")
TRITON = tuple(int(number) for number in triton.__version__.split(".")[:2])
NUMPY = np.lib.NumpyVersion(np.__version__)
if TRITON < (3, 9) and NUMPY >= "2.4.0":
    pytest.skip(
        "the interpreter of Triton before 3.9 does not work with NumPy from 2.4 on",
        allow_module_level=True,
    )
FILES = sorted((Path(__file__).parent / "interpreted").glob("*.py"))


def test_under_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # Triton 3.6 with NumPy before 2.4 warns of itself.
    options += ["-W", "ignore:Conversion of an array with ndim"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, FILES)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_there_is_something_to_run() -> None:
    assert [file.stem for file in FILES] == ["networks", "products", "selfcheck"]
