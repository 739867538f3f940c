"""When training takes the kernels; `interpreted/selfcheck.py` runs the check itself."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from mlp_mixer import UserError
from mlp_mixer.kernels import network, selfcheck, with_kernels
from mlp_mixer.models import create_model


@pytest.mark.usefixtures("capable")
def test_training_takes_the_kernels_only_where_they_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On tensors that pretend to be on a GPU.

    Nothing can be computed there, so that the answer of the check is imagined.
    """
    found = "the output is off by 1 here"
    reasons: list[str | None] = [None, found, found]
    asked = []

    def imagined(model: torch.nn.Module, dtype: torch.dtype) -> str | None:
        asked.append(dtype)
        return reasons.pop(0)

    monkeypatch.setattr(selfcheck, "self_check", imagined)
    with torch.device("meta"):
        model = create_model("mixer_pico2")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cuda")
        fused, notes = with_kernels(model, "auto", "fp32")
        assert type(fused.blocks[0]).__name__ == "FusedBlock"
        assert notes == ("token mixing is fused",)

        same, notes = with_kernels(model, "auto", "fp32")
        assert same is model
        assert notes == (f"token mixing stays plain: {found}",)

        said = f"^train.kernels=fused cannot be used: {found}; use train.kernels=auto$"
        with pytest.raises(UserError, match=said):
            with_kernels(model, "fused", "fp32")
        assert with_kernels(model, "plain", "fp32") == (model, ())
    assert asked == [torch.float32] * 3


def test_without_a_gpu_fused_training_is_refused_and_auto_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = "the kernel needs a CUDA device, not cpu"
    monkeypatch.setattr(network, "_machine_lacks", lambda device: said)
    model = create_model("mixer_pico2")
    assert with_kernels(model, "auto", "auto") == (model, ())
    with pytest.raises(UserError, match=f"{said}; use train.kernels=auto"):
        with_kernels(model, "fused", "auto")
