"""Where to compute, in which precision, with how many threads."""

from __future__ import annotations

import ctypes
import warnings

import pytest
import torch

from mlp_mixer import UserError
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


def test_a_cpu_computes_in_fp32_unless_bf16_is_asked_for() -> None:
    a = torch.randn(4, 4)
    for precision, dtype in (
        ("auto", torch.float32),
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
    ):
        with autocast(precision, torch.device("cpu")):  # type: ignore[arg-type]
            assert (a @ a).dtype == dtype


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
