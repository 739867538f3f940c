"""What commands compute with on a GPU, with a CPU in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlp_mixer import MlpMixer, kernels
from mlp_mixer.models import create_model
from mlp_mixer.runtime import (
    FAST_TOLERANCE,
    choice,
    cuda_graph,
    engine,
    engines,
    on_cuda,
    trial,
    ways,
)
from mlp_mixer.runtime.on_cuda import OnCuda, products


@pytest.fixture
def model() -> MlpMixer:
    torch.manual_seed(0)
    network = create_model("mixer_pico2", num_classes=4, num_blocks=1)
    torch.nn.init.normal_(network.head.weight)  # type: ignore[arg-type]
    assert isinstance(network, MlpMixer)
    return network.eval()


def images(model: MlpMixer, count: int) -> Tensor:
    return torch.randn(count, model.config.in_channels, *model.config.image_size)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Write down what is compiled and replayed, with batches of more than four large."""
    calls: dict[str, list[Any]] = {"compiled": [], "graphs": [], "chosen": []}

    def graphed(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def answer(x: Tensor) -> Tensor:
            calls["graphs"].append((len(x), x.dtype))
            return run(x)

        return answer

    def for_inference(network: nn.Module, batch: int) -> tuple[nn.Module, Any]:
        calls["chosen"].append(batch)
        return network, ("tokens first: 1.30 times as fast as plain",)

    def compiled(network: nn.Module, mode: str | None, dynamic: bool) -> nn.Module:
        assert dynamic is False
        calls["compiled"].append(mode)
        return network

    monkeypatch.setattr(cuda_graph, "graphed", graphed)
    monkeypatch.setattr(cuda_graph, "MOST_IMAGES", 4)
    monkeypatch.setattr(kernels, "for_inference", for_inference)
    monkeypatch.setattr(torch, "compile", compiled)
    return calls


@pytest.mark.parametrize("mode", [None, "max-autotune"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_it_is_compiled_beyond_some_images(
    precision: Any, mode: str | None, model: MlpMixer, gpu: dict[str, list[Any]]
) -> None:
    run = OnCuda(model, precision, mode=mode, compile_after=20)
    for count in (8, 8, 3, 8):
        assert run(images(model, count)).dtype == torch.float32
    assert gpu["compiled"] == []
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert gpu["graphs"] == [(count, dtype) for count in (8, 8, 3, 8)]
    graphs = len(gpu["graphs"])
    x = images(model, 8)
    torch.testing.assert_close(run(x), model(x).detach(), atol=0.05, rtol=0.05)
    assert (run.compiled, run.batch, run.seen) == (True, 8, 35)
    assert gpu["compiled"] == [mode]
    assert gpu["chosen"] == [8]
    assert run.notes == ("tokens first: 1.30 times as fast as plain",)
    # One comparison; the last part of a folder and single pictures go by graphs.
    assert len(gpu["graphs"]) == graphs + 1
    for count, by_graph in ((8, 0), (5, 1), (1, 1), (8, 0)):
        graphs = len(gpu["graphs"])
        run(images(model, count))
        assert len(gpu["graphs"]) == graphs + by_graph
    assert gpu["compiled"] == [mode], "it was compiled again"


def test_small_batches_are_never_compiled(
    model: MlpMixer, gpu: dict[str, list[Any]]
) -> None:
    run = OnCuda(model, "bf16", compile_after=0)
    for _ in range(9):
        run(images(model, 4))
    assert gpu["compiled"] == []
    run(images(model, 5))
    assert gpu["compiled"] == [None], "with 0 it is compiled at once"
    never = OnCuda(model, "bf16", compile_after=float("inf"))
    never(images(model, 9))
    assert not never.compiled


@pytest.mark.parametrize("fault", ["raises", "answers otherwise", "answers nan"])
def test_what_a_compiler_breaks_stays_as_it_was(
    fault: str,
    model: MlpMixer,
    gpu: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(network: nn.Module, **settings: Any) -> Callable[[Tensor], Tensor]:
        if fault == "raises":
            raise RuntimeError("ptxas died\nwith pages of text")
        add = 1.0 if fault == "answers otherwise" else float("nan")
        return lambda x: network(x) + add

    monkeypatch.setattr(torch, "compile", broken)
    run = OnCuda(model, "fp32", compile_after=0)
    x = images(model, 8)
    with pytest.warns(UserWarning, match="^not compiled: "):
        found = run(x)
    torch.testing.assert_close(found, model(x).detach())
    said = {
        "raises": "not compiled: RuntimeError ptxas died",
        "answers otherwise": "not compiled: its logits differ by",
        "answers nan": "not compiled: its logits differ by nan",
    }
    assert run.notes[-1].startswith(said[fault])
    # It is not tried again, and nobody is warned twice.
    run(x)
    assert not run.compiled


def test_a_compiled_answer_outlives_the_next_call(
    model: MlpMixer, gpu: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile with graphs writes every answer into the same memory."""
    place = torch.empty(8, 4)

    def with_graphs(network: nn.Module, **settings: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: place.copy_(network(x))

    monkeypatch.setattr(torch, "compile", with_graphs)
    run = OnCuda(model, compile_after=0)
    first = run(images(model, 8))
    kept = first.clone()
    run(images(model, 8))
    assert torch.equal(first, kept)


@pytest.mark.parametrize(
    ("precision", "word", "convolutions"),
    [("fp32", "highest", False), ("tf32", "high", True), ("bf16", "highest", False)],
)
@pytest.mark.parametrize("before", ["highest", "high"])
def test_fp32_is_exact_whatever_the_process_allows(
    precision: Any, word: str, convolutions: bool, before: str
) -> None:
    was = torch.get_float32_matmul_precision()
    allowed = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(before)
    try:
        with products(precision):
            assert torch.get_float32_matmul_precision() == word
            assert torch.backends.cudnn.allow_tf32 is convolutions
        assert torch.get_float32_matmul_precision() == before
        assert torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.set_float32_matmul_precision(was)


# The commands' own choice


@pytest.fixture
def pretended(gpu: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines take a network on the CPU for one on a GPU, where bf16 is fast."""
    clock = [0.0]
    took = {"fp32": 1.0, "tf32": 0.5, "bf16": 0.2}

    def timed(network: MlpMixer, precision: Any = "fp32") -> Any:
        run = OnCuda(network, precision)

        def answer(x: Tensor) -> Tensor:
            clock[0] += took[precision]
            return run(x)

        return answer

    monkeypatch.setattr(engines, "OnCuda", timed)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(engines, "disagreement", lambda run, model: (0.0, 1.0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(on_cuda, "is_on_cuda", lambda model: True)
    others = lambda model, name: None if name == "torch" else "not here"  # noqa: E731
    monkeypatch.setattr(ways, "why_not", others)


@pytest.mark.usefixtures("pretended")
@pytest.mark.parametrize(
    ("bf16", "tolerance", "expected"),
    [
        (True, FAST_TOLERANCE, "bf16"),
        (False, FAST_TOLERANCE, "tf32"),
        (True, 1e-4, "fp32"),
    ],
)
def test_on_a_gpu_the_first_batch_decides_the_precision(
    bf16: bool,
    tolerance: float,
    expected: str,
    model: MlpMixer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    # A processor's products say nothing of a GPU.
    monkeypatch.setattr(ways, "bf16_gain", lambda: 0.0)
    # On a CPU both roundings are none: the weights are what they are.
    run = engine(model, tolerance=tolerance)
    x = images(model, 6)
    torch.testing.assert_close(run(x), model(x).detach(), atol=0.1, rtol=0.1)
    record = run.record()
    assert record["precision"] == expected
    assert record["images"] == {expected: 6}
    if expected != "fp32":
        assert record["compared"] == 6
    assert run.spent < choice.PATIENCE


@pytest.mark.usefixtures("pretended")
def test_on_a_gpu_an_unstable_bf16_is_refused(
    model: MlpMixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = lambda network: lambda x: network(x) + 9  # noqa: E731
    monkeypatch.setitem(ways._ROUNDED, ways.Way("torch", "bf16"), wrong)
    run = engine(model, tolerance=FAST_TOLERANCE)
    run(images(model, 6))
    record = run.record()
    assert record["precision"] == "tf32"
    assert any(note.startswith("not bf16 by torch: its") for note in record["notes"])


@pytest.mark.usefixtures("pretended")
def test_fp32_on_a_gpu_is_the_plain_module_at_first(
    model: MlpMixer,
) -> None:
    run = engine(model, tolerance=FAST_TOLERANCE, precision="fp32")
    run(images(model, 6))
    assert run.is_exact
    assert run.record()["engine"] == "plain"


def test_on_cuda_is_lazy_about_kernels() -> None:
    """Triton is imported when something is compiled, not before."""
    assert "kernels" not in vars(on_cuda)
