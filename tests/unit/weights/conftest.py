"""What the tests of weights share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlp_mixer.models import VARIANTS

from .published import TINY


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published B/16 is a tiny network here."""
    monkeypatch.setitem(VARIANTS, "mixer_b16", TINY)
