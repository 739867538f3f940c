"""Where to compute, in which precision, with how many threads."""

from __future__ import annotations

import ctypes
import warnings

import pytest
import torch

from mlp_mixer import UserError, devices
from mlp_mixer.devices import autocast, cpu_threads, keep_memory, pick_device


def test_auto_is_the_accelerator_if_there_is_one() -> None:
    expected = (
        torch.accelerator.current_accelerator()
        if torch.accelerator.is_available()
        else torch.device("cpu")
    )
    assert pick_device("auto") == expected
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu9", "cpu:x", "cuda:99", "xla"])
def test_a_device_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(
        UserError, match=f"cannot use the device '{name}'.*use cpu or auto"
    ) as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("gain", "auto"), [(0.1, "fp32"), (1.3, "fp32"), (2, "bf16")])
def test_a_cpu_computes_in_bf16_where_that_is_faster_or_asked_for(
    gain: float, auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "bf16_gain", lambda product: gain)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    a = torch.randn(4, 4)
    for precision, expected in (
        ("auto", auto),
        ("fast", auto),
        ("fp32", "fp32"),
        ("bf16", "bf16"),
    ):
        with autocast(precision, torch.device("cpu")):  # type: ignore[arg-type]
            assert (a @ a).dtype == dtypes[expected]


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_gpu_is_asked_and_not_tried(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(product: object) -> float:
        raise AssertionError("the CPU's products say nothing of a GPU")

    monkeypatch.setattr(devices, "bf16_gain", never)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    expected = "bf16" if has_bf16 else "fp32"
    assert devices.computed_in("auto", torch.device("cuda")) == expected
    # Of other devices nothing is known.
    assert devices.computed_in("auto", torch.device("meta")) == "fp32"


@pytest.mark.parametrize(("slower", "expected"), [("bf16", 0.25), ("fp32", 4.0)])
def test_the_trial_is_the_quotient_of_the_least_times(
    slower: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    calls = []

    def linear(x: torch.Tensor, weight: torch.Tensor) -> None:
        calls.append(x.dtype)
        seconds = 4.0 if x.dtype == dtypes[slower] else 1.0
        # The first round prepares, and the second meets a busy machine.
        clock[0] += seconds * (100 if len(calls) <= 2 else 7 if len(calls) <= 4 else 1)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])
    before = torch.random.get_rng_state()
    product = (3, 5, 7 + len(slower) + int(expected))
    assert devices.bf16_gain(product) == expected
    count = len(calls)
    assert calls[:2] == [torch.float32, torch.bfloat16], "they do not take turns"
    assert devices.bf16_gain(product) == expected
    assert len(calls) == count, "it was tried again"
    assert torch.equal(torch.random.get_rng_state(), before)
    devices._bf16_gain.cache_clear()


@pytest.mark.parametrize("count", [1, 2, None])
def test_the_number_of_threads_is_put_back(count: int | None) -> None:
    before = torch.get_num_threads()

    def inside() -> None:
        with cpu_threads(count):
            assert torch.get_num_threads() == (count or before)
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert torch.get_num_threads() == before


def test_a_training_process_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors come from the heap, and the heap is not trimmed (mallopt(3))."""
    calls = {}

    class Libc:
        mallopt = staticmethod(calls.__setitem__)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc)
    keep_memory()
    m_trim_threshold = -1
    m_mmap_threshold = -3
    assert calls == {m_mmap_threshold: 2**30, m_trim_threshold: 2**31 - 1}


def test_keeping_memory_is_left_out_where_there_is_no_glibc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"no {name}")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    keep_memory()


def test_torch_s_advice_to_allow_tf32_fails_no_test() -> None:
    """Its compiler warns so on a GPU, in version 2.11; TF32 is off here on purpose.

    Every other warning is an error in these tests.
    """
    with pytest.raises(UserWarning, match="something else"):
        warnings.warn("something else is available", stacklevel=1)
    warnings.warn(
        "TensorFloat32 tensor cores for float32 matrix multiplication available but "
        "not enabled. Consider setting `torch.set_float32_matmul_precision('high')` "
        "for better performance.",
        stacklevel=1,
    )
