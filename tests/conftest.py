"""What all tests share: where optional test data lies, and a quiet, reproducible torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("MLP_MIXER_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def shared() -> Path:
    """The optional folder of test data; a test that needs it skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no test data at {SHARED} (set MLP_MIXER_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
