"""Where to compute, in which precision, with how many threads."""

from __future__ import annotations

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.devices import autocast, cpu_threads, pick_device


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
