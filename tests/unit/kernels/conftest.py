"""What the tests of the kernels share: machines that are only imagined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlp_mixer.kernels import network


@pytest.fixture(autouse=True)
def _the_machine_is_looked_at_anew() -> Iterator[None]:
    """What one test found out about its machine must not reach the next one."""
    real = network._machine_lacks
    real.cache_clear()
    yield
    real.cache_clear()


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine had all that the kernels need."""
    pytest.importorskip("triton")
    monkeypatch.setattr(network, "_machine_lacks", lambda device: None)
