"""Every engine gives the plain module's answers, whatever the configuration and the
batch; or says why it cannot.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlp_mixer import (
    Checkpoint,
    MixerConfig,
    MlpMixer,
    Prediction,
    Predictor,
    Preprocess,
    UserError,
)
from mlp_mixer.devices import cpu_threads
from mlp_mixer.runtime import (
    ENGINES,
    disagreement,
    engine,
    engines,
    fastest,
    int8,
    onnx_graph,
    packed,
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
NAMES = [pytest.param(name, marks=needs) for name, needs in (
    ("torch", ()),
    ("onnxruntime", pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="no onnxruntime")),
    ("openvino", pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="no openvino")),
)]  # fmt: skip


def trained(config: MixerConfig) -> MlpMixer:
    """No tensor is zero or symmetric, so that no part of the network can be left out
    unseen.
    """
    model = MlpMixer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.5)
    return model.eval()


def images(config: MixerConfig, batch: int) -> torch.Tensor:
    return torch.randn(batch, config.in_channels, *config.image_size)


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
        with torch.inference_mode():
            expected = model(x)
        assert expected.std() > 0.05
        torch.testing.assert_close(run(x), expected, atol=1e-5, rtol=1e-5)
    first = run(x).clone()
    kept = run(x)
    run(images(config, 2))
    assert torch.equal(kept, first), "an answer changed when the next question came"


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
            torch.testing.assert_close(run(x), model(x).detach(), atol=1e-5, rtol=1e-5)
        assert torch.get_num_threads() == threads
    with pytest.raises(UserError, match=r"takes images of shape \(batch, 3, 12, 28\)"):
        run(images(CONFIG, 1))


def finished(*calls: Callable[[], object]) -> bool:
    """Whether calls in threads of their own, all at once, come back."""
    asking = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(timeout=30)
    return not any(thread.is_alive() for thread in asking)


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
    expected = model(x).detach()
    found = []
    with cpu_threads(2):
        run = packed.packed(model)
        assert finished(*[lambda: found.extend(run(x) for _ in range(10))] * 4), (
            "they wait for each other"
        )
    torch.testing.assert_close(
        torch.cat(found), expected.expand(40, -1), atol=1e-5, rtol=1e-5
    )


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

        def fail_once(*arguments: Any) -> torch.Tensor:
            if next(failures, False):
                raise MemoryError("for the test")
            return norm(*arguments)

        monkeypatch.setattr(F, "layer_norm", fail_once)
        with pytest.raises((MemoryError, threading.BrokenBarrierError)):
            run(x)
        again: list[torch.Tensor] = []
        assert finished(lambda: again.append(run(x))), (
            "a thread still waits for the one that failed"
        )
    torch.testing.assert_close(again[0], expected)


def test_small_and_half_precision_networks_stay_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)
    assert packed.can_pack(model)
    monkeypatch.undo()
    assert not packed.can_pack(model)
    half = trained(CONFIG).to(torch.bfloat16)
    assert not packed.can_pack(half)
    assert engine(half, "torch")(images(CONFIG, 2).bfloat16()).dtype == torch.float32
    assert fastest(half, images(CONFIG, 2).bfloat16())[0] == "torch"
    assert why_not(half, "onnxruntime") in (
        "it is for fp32 on the CPU, and the weights are bfloat16 on cpu",
        "onnxruntime is not installed (pip install onnxruntime)",
    )


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(CONFIG)
    with pytest.raises(
        UserError, match="unknown engine 'onnxruntim'; did you mean 'onnxruntime'"
    ):
        engine(model, "onnxruntim")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"'openvino' cannot run this model: openvino is not installed \(pip install op",
    ):
        engine(model, "openvino")
    assert fastest(model, images(CONFIG, 2))[0] == "torch"


def test_an_engine_that_answers_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)
    monkeypatch.setitem(ENGINES, "torch", lambda model: lambda x: model(x) * (1 + 3e-4))
    with pytest.raises(
        UserError,
        match=r"the engine 'torch' differs from torch by \d.*e-0\d in the logits",
    ):
        engine(model, "torch")
    monkeypatch.setitem(
        ENGINES, "torch", lambda model: lambda x: model(x) * float("nan")
    )
    with pytest.raises(UserError, match="differs from torch by nan"):
        engine(model, "torch")


def test_the_graph_is_valid_and_names_its_ends() -> None:
    onnx = pytest.importorskip("onnx")
    for form in ("left", "transposed"):
        graph = onnx_graph(CONFIG, trained(CONFIG).state_dict(), token_mixing=form)
        onnx.checker.check_model(graph, full_check=True)
        assert [node.name for node in graph.graph.input] == ["image"]
        assert [node.name for node in graph.graph.output] == ["logits"]
        assert {node.domain for node in graph.graph.node} == {""}
        assert sum(node.op_type == "Transpose" for node in graph.graph.node) == (
            1 if form == "left" else 5
        )


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

    def made(name: str) -> engines.EngineFn:
        def run(x: torch.Tensor) -> torch.Tensor:
            first = not asked or asked[-1] != (name, len(x))
            asked.append((name, len(x)))
            clock[0] += (
                50 if first and name == "onnxruntime" else seconds[name]
            )  # a first call after another engine's
            return model(x).detach()

        return run

    monkeypatch.setattr(engines, "why_not", lambda model, name: None)
    monkeypatch.setattr(engines.time, "perf_counter", lambda: clock[0])
    for name in seconds:
        monkeypatch.setitem(ENGINES, name, lambda model, name=name: made(name))
    name, run = fastest(model, x)
    assert name == "onnxruntime"
    torch.testing.assert_close(run(x), model(x).detach())
    assert (
        max(count for _, count in asked[:-1]) == 8
    )  # a large batch is not tried whole
    pairs = [who for name in seconds for who in (name, name)]
    assert [
        who for who, count in asked if count == 8
    ] == pairs * 3  # in turns: noise hits all of them
    monkeypatch.setitem(
        ENGINES, "onnxruntime", lambda model: lambda x: model(x) + 1
    )  # wrong: out of the question
    assert fastest(model, x)[0] == "torch"


def test_auto_is_plain_at_first_and_then_the_fastest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained(CONFIG)
    tried = []

    def chosen(model: MlpMixer, x: torch.Tensor) -> tuple[str, engines.EngineFn]:
        tried.append(len(x))
        return "torch", packed.packed(model)

    monkeypatch.setattr(engines, "fastest", chosen)
    run = engine(model)
    assert isinstance(run, engines._Patient)
    for count, expected in ((16, []), (1, []), (0, [])):
        x = images(CONFIG, count)
        torch.testing.assert_close(run(x), model(x).detach(), atol=1e-5, rtol=1e-5)
        assert tried == expected
    assert 0 < run.spent < engines.PATIENCE
    run.spent = engines.PATIENCE
    for count, expected in (
        (0, []),
        (16, [16]),
        (8, [16]),
        (1, [16, 1]),
        (1, [16, 1]),
        (0, [16, 1]),
    ):
        x = images(CONFIG, count)
        torch.testing.assert_close(run(x), model(x).detach(), atol=1e-5, rtol=1e-5)
        assert tried == expected, "single images and several may have an engine each"


@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_a_predictor_answers_with_any_engine(name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, image_size=(16, 16))
    checkpoint = Checkpoint(trained(config), Preprocess((16, 16)))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(40)]
    expected = [
        checkpoint.model(checkpoint.preprocess(picture)[None])[0].softmax(0)
        for picture in pictures
    ]
    answers = list(
        Predictor(checkpoint, engine=name, top=5).predict(
            [b"no image", *pictures], batch_size=8
        )
    )[1:]
    for answer, scores in zip(answers, expected, strict=True):
        assert isinstance(answer, Prediction)
        assert {c.label: c.score for c in answer.top} == pytest.approx(
            dict(enumerate(scores.tolist())), abs=1e-5
        )
