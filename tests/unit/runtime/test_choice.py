"""The way is chosen within a tolerance, on the user's images, and it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mlp_mixer import MlpMixer, UserError
from mlp_mixer.models import create_model
from mlp_mixer.runtime import (
    ENGINES,
    FAST_TOLERANCE,
    TOLERANCE,
    EngineOnce,
    Way,
    admitted_tolerance,
    choice,
    engine,
    fastest,
    trial,
    ways,
)
from mlp_mixer.runtime.choice import Engine
from mlp_mixer.runtime.onnx_graph import _int8_sums_saturate
from mlp_mixer.runtime.trial import compare

BF16 = Way("torch", "bf16")
INT8 = Way("onnxruntime", "int8")
CPU = torch.device("cpu")


@pytest.fixture
def model() -> MlpMixer:
    torch.manual_seed(0)
    network = create_model("mixer_pico2", num_classes=4, num_blocks=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    assert isinstance(network, MlpMixer)
    return network.eval()


def images(model: MlpMixer, count: int) -> Tensor:
    return torch.randn(count, model.config.in_channels, *model.config.image_size)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, model: MlpMixer) -> Any:
    """Pretend that a machine has torch alone, and bf16 and int8 of some speed and error."""

    def pretend(
        gain: float = 2.0,
        seconds: dict[str, float] | None = None,
        errors: dict[str, float] | None = None,
        flips: int = 0,
    ) -> None:
        took = {"fp32": 1.0, "bf16": 0.5, "int8": 0.3} | (seconds or {})
        off = {"fp32": 0.0, "bf16": 0.01, "int8": 0.05} | (errors or {})
        clock = [0.0]

        def run_of(precision: str) -> Callable[[Tensor], Tensor]:
            @torch.inference_mode()
            def run(x: Tensor) -> Tensor:
                clock[0] += took[precision]
                logits = model(x)
                if precision != "fp32":
                    scale = max(1.0, logits.abs().max().item())
                    # Of the best class, so that the order stays.
                    logits[:, logits[0].argmax()] += 0.0
                    best = logits.argmax(1, keepdim=True)
                    add = torch.full_like(best, off[precision] * scale, dtype=x.dtype)
                    logits = logits.scatter_add(1, best, add)
                    logits[:flips] = -logits[:flips] if flips else logits[:flips]
                return logits

            return run

        def why_not(network: MlpMixer, name: str) -> str | None:
            return None if name in ("torch", "plain", "onnxruntime") else "not here"

        monkeypatch.setattr(ways, "bf16_gain", lambda: gain)
        monkeypatch.setattr(ways, "why_not", why_not)
        monkeypatch.setitem(ENGINES, "torch", lambda network: run_of("fp32"))
        monkeypatch.setitem(ways._ROUNDED, BF16, lambda network: run_of("bf16"))
        monkeypatch.setitem(ways._ROUNDED, INT8, lambda network: run_of("int8"))
        monkeypatch.setattr(choice, "exact", lambda network: run_of("fp32"))
        monkeypatch.setattr(trial, "exact", lambda network: run_of("fp32"))
        monkeypatch.setattr(trial.time, "perf_counter", lambda: clock[0])
        monkeypatch.setattr(choice, "PATIENCE", 0.5)
        # The engine must be a known one to be tried.
        monkeypatch.setitem(ENGINES, "onnxruntime", _never)

    return pretend


def _never(network: MlpMixer) -> Callable[[Tensor], Tensor]:
    raise UserError("onnxruntime in fp32 is not here")


def after_trial(model: MlpMixer, count: int = 32, **settings: Any) -> Engine:
    """Return an engine that has tried, on images of its user."""
    run = engine(model, **settings)
    for _ in range(3):
        run(images(model, count))
    return run


# What the tolerance admits


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [
        (TOLERANCE, "fp32"),
        (0.0, "fp32"),
        (0.005, "fp32"),
        (0.02, "bf16"),
        (FAST_TOLERANCE, "int8"),
    ],
)
def test_the_fastest_within_the_tolerance_is_taken(
    tolerance: float, expected: str, model: MlpMixer, machine: Any
) -> None:
    machine()
    run = after_trial(model, tolerance=tolerance)
    record = run.record()
    assert record["precision"] == expected
    assert record["difference"] <= max(tolerance, 1e-6)
    if expected != "fp32":
        assert record["compared"] == 32
        assert record["difference"] == pytest.approx(
            {"bf16": 0.01, "int8": 0.05}[expected], rel=1e-3
        )
    assert run.is_exact == (tolerance <= TOLERANCE)


def test_a_cpu_without_bf16_refuses_it_as_slower(model: MlpMixer, machine: Any) -> None:
    for gain, expected in ((0.13, "fp32"), (1.39, "fp32"), (1.41, "bf16")):
        machine(gain=gain, errors={"int8": 1.0})
        record = after_trial(model, tolerance=0.02).record()
        assert record["precision"] == expected
        said = (
            f"not bf16 by torch: products are {gain:.2f} times as fast as in fp32 here"
        )
        assert (said in record["notes"]) == (expected == "fp32")


@pytest.mark.parametrize("seconds", [1.0, 0.95, 3.0])
def test_what_is_not_exact_must_be_worth_it(
    seconds: float, model: MlpMixer, machine: Any
) -> None:
    machine(seconds={"bf16": seconds, "int8": seconds})
    record = after_trial(model, tolerance=0.1).record()
    assert record["precision"] == "fp32"
    assert any("times as fast as fp32 by torch" in note for note in record["notes"])


@pytest.mark.parametrize(
    ("int8", "off", "expected"),
    [
        (0.3, 0.05, "int8"),
        (0.46, 0.05, "bf16"),  # a tenth of the time is not worth five times the error
        (0.46, 0.015, "int8"),  # about as far from the module
        (0.44, 0.05, "int8"),
    ],
)
def test_of_two_as_fast_the_closer_is_taken(
    int8: float, off: float, expected: str, model: MlpMixer, machine: Any
) -> None:
    machine(seconds={"int8": int8}, errors={"int8": off})
    assert after_trial(model, tolerance=0.1).record()["precision"] == expected


@pytest.mark.parametrize("flips", [1, 2, 31])
def test_other_classes_are_refused_whatever_the_tolerance(
    flips: int, model: MlpMixer, machine: Any
) -> None:
    machine(flips=flips)
    record = after_trial(model, tolerance=1e6).record()
    assert record["precision"] == "fp32"
    # A flipped row is the negative one, whose best class cannot be the same.
    assert f"not int8 by onnxruntime: {flips} of 32 classes differ" in record["notes"]


def test_a_difference_that_is_no_number_is_refused(
    model: MlpMixer, machine: Any
) -> None:
    machine(errors={"bf16": float("nan"), "int8": float("inf")})
    record = after_trial(model, tolerance=1e30).record()
    assert record["precision"] == "fp32"
    assert (
        "not bf16 by torch: its logits differ by nan of the largest"
        in (record["notes"])
    )


def test_a_way_that_fails_is_a_note_and_not_the_end(
    model: MlpMixer, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()

    def fails(network: MlpMixer) -> Callable[[Tensor], Tensor]:
        raise MemoryError("no room\nat all")

    monkeypatch.setitem(ways._ROUNDED, INT8, fails)
    record = after_trial(model, tolerance=0.1).record()
    assert record["precision"] == "bf16"
    said = "not int8 by onnxruntime: it fails here (MemoryError at all)"
    assert said in record["notes"]


# When it is tried, and on what


def test_few_images_are_never_tried(model: MlpMixer, machine: Any) -> None:
    machine(seconds={"fp32": 0.1})
    run = engine(model, tolerance=0.1)
    for _ in range(4):
        run(images(model, 2))
    assert run.chosen == {}
    assert run.record()["images"] == {"fp32": 8}
    assert run(images(model, 0)).shape == (0, 4)


def test_the_first_images_are_those_that_are_compared(
    model: MlpMixer, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(seconds={"fp32": 0.1, "bf16": 0.05, "int8": 0.02})
    seen = []

    def chosen(network: MlpMixer, x: Tensor, *rest: Any, **settings: Any) -> Any:
        seen.append(settings["first"])
        return fastest(network, x, *rest, **settings)

    monkeypatch.setattr(choice, "fastest", chosen)
    run = engine(model, tolerance=0.1)
    batches = [images(model, 20) for _ in range(8)]
    for batch in batches:
        run(batch)
    ((some, expected),) = seen
    assert torch.equal(some, torch.cat(batches)[:32])
    torch.testing.assert_close(expected, model(some).detach())
    record = run.record()
    assert record["images"] == {"fp32": 100, "int8": 60}
    assert "100 in fp32, 60 in int8" in run.in_words()
    assert "logits differ by at most 0.05 of the largest on 32 images" in run.in_words()


def test_single_images_and_several_may_have_a_way_each(
    model: MlpMixer, machine: Any
) -> None:
    machine()
    run = after_trial(model, tolerance=0.1)
    assert set(run.chosen) == {True}
    run(images(model, 1))
    assert set(run.chosen) == {True, False}


# What was asked for by name


def test_exact_stays_exact_whatever_the_tolerance(
    model: MlpMixer, machine: Any
) -> None:
    machine()
    run = after_trial(model, tolerance=1.0, precision="fp32")
    assert run.is_exact
    assert run.record()["images"] == {"fp32": 96}
    assert run.of_the_newest() == {}


@pytest.mark.parametrize("gain", [0.1, 3.0])
def test_bf16_that_is_asked_for_computes_from_the_first_image(
    gain: float, model: MlpMixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower or not, and how far it is from fp32 is told."""
    monkeypatch.setattr(ways, "bf16_gain", lambda: gain)
    run = engine(model, "torch", precision="bf16")
    x = images(model, 5)
    found = run(x)
    record = run.record()
    assert (record["precision"], record["engine"]) == ("bf16", "torch")
    expected = model(x).detach()
    difference, _ = compare(found, expected)
    assert 1e-5 < difference < 0.1
    assert record["difference"] == pytest.approx(difference, rel=1e-4)
    assert record["compared"] == 5
    run(images(model, 40))
    assert run.record()["compared"] == 32
    assert run.of_the_newest()["precision"] == "bf16"


def test_what_cannot_be_had_is_one_sentence(model: MlpMixer) -> None:
    for name in ("plain", "onnxruntime"):
        with pytest.raises(UserError, match="precision='bf16' cannot be had here") as e:
            engine(model, name, precision="bf16")
        assert "\n" not in str(e.value)
    with pytest.raises(
        UserError, match="unknown precision 'bf61'; did you mean 'bf16'"
    ):
        engine(model, precision="bf61")
    for tolerance in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="expected a number from 0 on"):
            engine(model, tolerance=tolerance)


def test_weights_in_half_precision_are_computed_as_they_are(model: MlpMixer) -> None:
    half = model.to(torch.bfloat16)
    x = images(model, 3).bfloat16()
    for precision in ("auto", "fp32", "bf16"):
        run = engine(half, precision=precision, tolerance=0.5)
        assert run(x).dtype == torch.float32
        assert run.record()["precision"] == "bf16"
        assert run.is_exact


def test_commands_admit_more_where_it_was_said_or_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    assert admitted_tolerance(False, "auto", CPU) == TOLERANCE
    assert admitted_tolerance(True, "auto", CPU) == FAST_TOLERANCE
    assert admitted_tolerance(False, "auto", cuda) == FAST_TOLERANCE
    assert admitted_tolerance(False, "fp32", cuda) == TOLERANCE
    assert admitted_tolerance(True, "bf16", CPU) == TOLERANCE
    with pytest.raises(UserError, match="leave one away"):
        admitted_tolerance(True, "fp32", CPU)


def test_an_engine_is_made_once(model: MlpMixer) -> None:
    once = EngineOnce(tolerance=TOLERANCE, precision="auto")
    assert once.made is None
    assert once(model) is once(model) is once.made


# The real ways, on whatever is installed


@pytest.mark.parametrize("way", list(ways._ROUNDED), ids=str)
def test_every_way_is_near_the_module(way: Way, model: MlpMixer) -> None:
    if reason := ways.why_not_way(model, way, asked=True):
        pytest.skip(reason)
    x = images(model, 6)
    try:
        found = ways.build(model, way)(x)
    except UserError as error:
        assert way == Way("openvino", "bf16")
        pytest.skip(str(error))
    except RuntimeError:
        # Without VNNI its kernels may lack it; the trial leaves it out then.
        assert way == Way("openvino", "int8")
        assert _int8_sums_saturate()
        pytest.skip("openvino multiplies weights of 8 bits on newer processors only")
    difference, _ = compare(found, model(x).detach())
    assert 1e-5 < difference < 0.2


def test_auto_in_fp32_is_plain_at_first_and_then_the_fastest(
    model: MlpMixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def chosen(network: MlpMixer, x: Tensor) -> Any:
        tried.append(len(x))
        return trial.Chosen(Way("torch", "fp32"), trial.exact(network))

    def ask(count: int) -> None:
        x = images(model, count)
        torch.testing.assert_close(run(x), model(x).detach(), rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(choice, "fastest", chosen)
    run = engine(model)
    for count in (16, 1, 0):
        ask(count)
    assert tried == []
    assert 0 < run.spent < choice.PATIENCE
    run.spent = choice.PATIENCE
    ask(0)
    assert tried == [], "no images are no reason to try"
    for count in (16, 8):
        ask(count)
        assert tried == [16]
    for count in (1, 1, 0):
        ask(count)
        assert tried == [16, 1], "single images and several may have an engine each"
