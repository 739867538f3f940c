"""What `fuse` says and does where there is no GPU, or where one is only imagined."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mlp_mixer.kernels import available, fuse, network, why_not
from mlp_mixer.kernels.tiles import MOST_TOKENS
from mlp_mixer.models import create_model


def test_the_machine_s_reasons_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mixer_pico2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: name)
    assert why_not(model) == "there is no CUDA device"
    assert not available()
    assert why_not(model, "cpu") == "the kernel needs a CUDA device, not cpu"
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: None)
    network._machine_lacks.cache_clear()
    assert why_not(model) == "triton is not installed"


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((7, 5), "compute capability 7.5 is older than 8.0"), ((9, 0), None)],
)
def test_an_old_gpu_is_a_reason(
    capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert why_not(create_model("mixer_pico2")) == reason
    assert available() == (reason is None)


def test_without_a_gpu_the_model_stays_as_it_is_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model("mixer_pico2")
    said = "there is no CUDA device"
    monkeypatch.setattr(network, "_machine_lacks", lambda device: said)
    with pytest.warns(UserWarning, match=f"^token mixing stays plain: {said}$"):
        assert fuse(model) is model


@pytest.mark.usefixtures("capable")
def test_the_model_s_reasons_are_words() -> None:
    assert why_not(create_model("mixer_pico2")) is None
    large = create_model("mixer_pico2", image_size=64)
    said = f"it has 1024 tokens, and the kernel holds at most {MOST_TOKENS}"
    assert why_not(large) == said
    dropping = create_model("mixer_pico2", dropout=0.1)
    said = "dropout inside the MLPs is on in training, and the kernel has none"
    assert why_not(dropping) == said
    assert why_not(dropping.eval()) is None
    double = create_model("mixer_pico2").double()
    said = "its parameters are float64, and the kernel sums in float32"
    assert why_not(double) == said
    gmlp = create_model("gmlp_ti16", num_blocks=1)
    assert why_not(gmlp) == "its blocks are not those of a Mixer"


@pytest.mark.usefixtures("capable")
def test_a_fused_model_on_the_cpu_is_the_plain_one_compiled_or_not() -> None:
    model = create_model("mixer_pico2", num_classes=3)
    image = torch.randn(2, 3, 8, 8)
    torch.nn.init.normal_(model.head.weight)
    fused = fuse(model)
    assert type(fused.blocks[0]).__name__ == "FusedBlock"
    # The same layers on the same numbers: every bit is the same.
    assert torch.equal(fused(image), model(image))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(image), model(image))
    # A compiler may add in another order.
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), model(image), rtol=1e-5, atol=1e-6)


def test_importing_the_kernels_or_a_predictor_does_not_import_triton() -> None:
    for module in ("mlp_mixer.kernels", "mlp_mixer.inference"):
        code = f"import sys, {module}; sys.exit('triton' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
