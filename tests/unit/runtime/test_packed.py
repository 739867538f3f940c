"""The packed Mixer answers as the module, for any number of images and of threads."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlp_mixer import MixerConfig, MlpMixer, UserError
from mlp_mixer.devices import cpu_threads
from mlp_mixer.runtime import packed

CONFIG = MixerConfig(
    4, 2, 24, 10, 40, image_size=(8, 12), num_classes=5, gelu="erf", norm_eps=1e-3
)


def trained(config: MixerConfig) -> MlpMixer:
    """As after training: no tensor is zero, so that no part can be left out unseen."""
    model = MlpMixer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.5)
    return model.eval()


def images(config: MixerConfig, batch: int) -> Tensor:
    return torch.randn(batch, config.in_channels, *config.image_size)


def assert_near(ours: Tensor, plain: Tensor) -> None:
    """Up to rounding: another form of GELU would differ by 2e-4."""
    torch.testing.assert_close(ours, plain.detach(), rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def _any_size_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_LEAST_WORK", 0)
    monkeypatch.setattr(packed, "_LEAST_ROWS", 0)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("least_rows", [0, 1000])
def test_packed_answers_for_any_number_of_threads(
    threads: int, least_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_LEAST_ROWS", least_rows)
    model = trained(dataclasses.replace(CONFIG, image_size=(12, 28)))
    with cpu_threads(threads):
        run = packed.packed(model)
        for batch in (0, 1, 2, 5):
            x = images(model.config, batch)
            assert_near(run(x), model(x))
        assert torch.get_num_threads() == threads
    with pytest.raises(UserError, match=r"takes images of shape \(batch, 3, 12, 28\)"):
        run(images(CONFIG, 1))


def all_end(*calls: Callable[[], object]) -> bool:
    """Whether calls in threads of their own, all at once, come back."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    return not any(thread.is_alive() for thread in threads)


class SlowPool(ThreadPoolExecutor):
    """Leaves others time to come between."""

    def submit(self, *arguments: Any, **more: Any) -> Future[Any]:
        future = super().submit(*arguments, **more)
        time.sleep(0.002)
        return future


def test_several_threads_may_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "ThreadPoolExecutor", SlowPool)
    model = trained(CONFIG)
    x = images(CONFIG, 1)
    expected = model(x)
    found = []
    with cpu_threads(2):
        run = packed.packed(model)

        def ask() -> None:
            found.extend(run(x) for _ in range(10))

        assert all_end(ask, ask, ask, ask), "they wait for each other"
    assert_near(torch.cat(found), expected.expand(40, -1))


def test_a_failure_in_one_thread_frees_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)
    x = images(CONFIG, 1)
    norm = F.layer_norm
    with cpu_threads(2):
        run = packed.packed(model)
        expected = run(x)
        failures = iter([True])

        def fail_once(*arguments: Any) -> Tensor:
            if next(failures, False):
                raise MemoryError("for the test")
            return norm(*arguments)

        monkeypatch.setattr(F, "layer_norm", fail_once)
        with pytest.raises((MemoryError, threading.BrokenBarrierError)):
            run(x)
        again: list[Tensor] = []
        ended = all_end(lambda: again.append(run(x)))
        assert ended, "a thread still waits for the one that failed"
    assert_near(again[0], expected)


def test_small_and_half_precision_networks_are_not_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)
    assert packed.can_pack(model)
    monkeypatch.undo()
    assert not packed.can_pack(model)
    assert not packed.can_pack(trained(CONFIG).to(torch.bfloat16))
