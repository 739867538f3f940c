"""Every engine gives the plain module's answers, or says why it cannot.

Whatever the configuration and the batch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlp_mixer import (
    Checkpoint,
    MixerConfig,
    MlpMixer,
    Prediction,
    Predictor,
    Preprocess,
    UserError,
)
from mlp_mixer.runtime import (
    ENGINES,
    disagreement,
    engine,
    engines,
    fastest,
    int8,
    onnx_graph,
    packed,
    trial,
    ways,
    why_not,
)

CONFIG = MixerConfig(
    4, 2, 24, 10, 40, image_size=(8, 12), num_classes=5, gelu="erf", norm_eps=1e-3
)
CONFIGS = {
    "erf": CONFIG,
    "tanh": dataclasses.replace(CONFIG, gelu="tanh"),
    "no head": dataclasses.replace(CONFIG, num_classes=0),
    "no final norm": dataclasses.replace(CONFIG, final_norm=False),
    "grey, one token": dataclasses.replace(CONFIG, in_channels=1, image_size=(4, 4)),
    "drops in training": dataclasses.replace(CONFIG, dropout=0.5, drop_path=0.5),
}


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    # openvino has no LayerNorm for such processors.
    if package == "openvino" and os.environ.get("ONEDNN_MAX_CPU_ISA") == "SSE41":
        missing = True
    return pytest.mark.skipif(missing, reason=f"no {package}")


NAMES = [
    pytest.param("torch"),
    pytest.param("onnxruntime", marks=needs("onnxruntime")),
    pytest.param("openvino", marks=needs("openvino")),
]


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_engines_answer_as_the_module(name: str, config: MixerConfig) -> None:
    model = trained(config)
    run = engine(model.train(), name)
    assert not model.training
    for batch in (1, 3, 2):
        x = images(config, batch)
        expected = model(x)
        assert expected.std() > 0.05
        assert_near(run(x), expected)
    kept = run(x)
    copy = kept.clone()
    run(images(config, 2))
    assert torch.equal(kept, copy), "an answer changed when the next images came"


def test_half_precision_is_for_torch_alone() -> None:
    half = trained(CONFIG).to(torch.bfloat16)
    x = images(CONFIG, 2).bfloat16()
    assert engine(half, "torch")(x).dtype == torch.float32
    assert fastest(half, x).way.engine == "torch"
    assert why_not(half, "onnxruntime") in (
        "it is for fp32 on the CPU, and the weights are bfloat16 on cpu",
        "onnxruntime is not installed (pip install onnxruntime)",
    )


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(CONFIG)
    said = "unknown engine 'onnxruntim'; did you mean 'onnxruntime'"
    with pytest.raises(UserError, match=said):
        engine(model, "onnxruntim")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    said = (
        r"'openvino' cannot run this model: openvino is not installed \(pip install op"
    )
    with pytest.raises(UserError, match=said):
        engine(model, "openvino")
    assert fastest(model, images(CONFIG, 2)).way.engine == "torch"


def test_an_engine_that_answers_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)

    def scaled(factor: float) -> None:
        """Replace an engine by one whose logits are wrong by a factor."""
        wrong = lambda model: lambda x: model(x) * factor  # noqa: E731
        monkeypatch.setitem(ENGINES, "torch", wrong)

    scaled(1 + 3e-4)
    said = r"the engine 'torch' differs from torch by \d.*e-0\d in the logits"
    with pytest.raises(UserError, match=said):
        engine(model, "torch")
    scaled(float("nan"))
    with pytest.raises(UserError, match="differs from torch by nan"):
        engine(model, "torch")


def test_an_engine_that_fails_on_this_machine_is_refused_and_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)

    def failing(model: MlpMixer) -> engines.EngineFn:
        def run(x: Tensor) -> Tensor:
            raise RuntimeError(
                "Exception from infer_request.cpp:224:\nbad combination\n"
            )

        return run

    for module in (engines, ways):
        monkeypatch.setattr(module, "why_not", lambda model, name: None)
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(ENGINES, name, failing)
    said = "the engine 'openvino' fails on this machine: bad combination; use engine="
    with pytest.raises(UserError, match=said):
        engine(model, "openvino")
    assert fastest(model, images(CONFIG, 2)).way.engine == "torch"


def test_the_graph_is_valid_and_names_its_ends() -> None:
    onnx = pytest.importorskip("onnx")
    tensors = trained(CONFIG).state_dict()
    # The stem has one transposition, and "transposed" two in each of two blocks.
    for form, transpositions in (("left", 1), ("transposed", 5)):
        model = onnx_graph(CONFIG, tensors, token_mixing=form)
        onnx.checker.check_model(model, full_check=True)
        graph = model.graph
        assert [node.name for node in graph.input] == ["image"]
        assert [node.name for node in graph.output] == ["logits"]
        assert {node.domain for node in graph.node} == {""}
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("Transpose") == transpositions


def test_int8_is_near_and_not_equal() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = trained(CONFIG)
    difference, scale = disagreement(int8(model), model)
    assert 1e-4 < difference / scale < 0.1


def test_the_fastest_is_the_one_that_took_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)
    x = images(CONFIG, 9)
    clock = [0.0]
    seconds = {"torch": 2.0, "onnxruntime": 1.0, "openvino": 3.0}
    asked: list[tuple[str, int]] = []

    def timed(name: str) -> engines.EngineFn:
        """An engine that moves the clock."""

        def run(x: Tensor) -> Tensor:
            first = not asked or asked[-1] != (name, len(x))
            asked.append((name, len(x)))
            # A first call after another engine's is slow, and must not count.
            clock[0] += 50 if first and name == "onnxruntime" else seconds[name]
            return model(x).detach()

        return run

    for module in (engines, ways):
        monkeypatch.setattr(module, "why_not", lambda model, name: None)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: clock[0])
    for name in seconds:
        monkeypatch.setitem(ENGINES, name, lambda model, name=name: timed(name))
    chosen = fastest(model, x)
    assert chosen.way.engine == "onnxruntime"
    assert_near(chosen.run(x), model(x))
    tried = asked[:-1]
    assert max(count for _, count in tried) == 8, "a large batch is tried whole"
    # In turns, so that noise hits all of them; two calls each, in three rounds.
    turns = [name for name, count in tried if count == 8]
    pairs = ["torch"] * 2 + ["onnxruntime"] * 2 + ["openvino"] * 2
    assert turns == pairs * 3
    wrong = lambda model: lambda x: model(x) + 1  # noqa: E731
    monkeypatch.setitem(ENGINES, "onnxruntime", wrong)
    assert fastest(model, x).way.engine == "torch"


@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_a_predictor_answers_with_any_engine(name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, image_size=(16, 16))
    checkpoint = Checkpoint(trained(config), Preprocess((16, 16)))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(40)]
    predictor = Predictor(checkpoint, engine=name, top=5)
    answers = list(predictor.predict([b"no image", *pictures], batch_size=8))
    for answer, picture in zip(answers[1:], pictures, strict=True):
        assert isinstance(answer, Prediction)
        logits = checkpoint.model(checkpoint.preprocess(picture)[None])[0]
        expected = dict(enumerate(logits.softmax(0).tolist()))
        scores = {entry.label: entry.score for entry in answer.top}
        assert scores == pytest.approx(expected, abs=1e-5)
