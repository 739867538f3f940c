"""What a run computes in: chosen by a trial, recorded, kept when it is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import devices, load
from mlp_mixer.config import from_dict, to_dict
from mlp_mixer.models import create_model
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import precision, prepare, train
from mlp_mixer.training.config import LoopChoice, TrainConfig, stored_config
from mlp_mixer.training.optim.build import build_optimizer
from mlp_mixer.training.optim_config import OptimChoice
from mlp_mixer.training.precision import (
    largest_product,
    precision_of_state,
    settle_precision,
)
from mlp_mixer.training.state import newest_state

CPU = torch.device("cpu")


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this processor so many times as fast in bf16, with the least networks too."""
    monkeypatch.setattr(devices, "_LEAST_SIDE", 1)

    def set_gain(value: float) -> None:
        for module in (devices, precision):
            monkeypatch.setattr(module, "bf16_gain", lambda product=None: value)

    return set_gain


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.39, "fp32"), (1.4, "bf16"), (9.0, "bf16")],
)
def test_auto_is_what_the_trial_says(
    value: float, expected: str, gain: Any, tiny: Any, tmp_path: Path
) -> None:
    gain(value)
    config = tiny(epochs=0.2)
    run = prepare(config)
    assert run.precision == expected
    said = [note for note in run.notes if "bf16" in note]
    assert bool(said) == (expected == "bf16")
    train(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == expected
    provenance = load(tmp_path / "last.safetensors").provenance
    assert provenance["precision"] == expected


def test_a_narrow_network_is_not_tried(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trial would say this today and that tomorrow, and two runs would differ."""
    monkeypatch.setattr(devices, "bf16_gain", lambda product: 5.0)
    assert prepare(tiny()).precision == "fp32"
    for sides, expected in (
        ((63, 512), "fp32"),
        ((512, 63), "fp32"),
        ((64, 64), "bf16"),
    ):
        assert devices.computed_in("auto", CPU, (1024, *sides)) == expected


@pytest.mark.parametrize("word", ["fp32", "bf16"])
def test_who_names_a_precision_gets_it(word: str, gain: Any) -> None:
    for value in (0.1, 5.0):
        gain(value)
        model = create_model("mixer_pico2")
        found = settle_precision(LoopChoice(precision=word), CPU, model)  # type: ignore[arg-type]
        assert found == (word, ())


def test_the_network_computes_in_what_was_chosen(gain: Any, tiny: Any) -> None:
    from mlp_mixer.training.step import Stepper

    for value, dtype in ((0.5, torch.float32), (2.0, torch.bfloat16)):
        gain(value)
        run = prepare(tiny())
        model = run.model.train()
        optimizer = build_optimizer(model, run.config.optim)
        seen = []
        hook = model.head.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output.dtype)
        )
        Stepper(run, model, optimizer, None)(run.batches()[0], 0)
        hook.remove()
        assert seen == [dtype]


@pytest.mark.parametrize(("first", "then"), [(2.0, 0.1), (0.1, 2.0)])
def test_a_resumed_run_keeps_its_precision_to_the_bit(
    first: float,
    then: float,
    gain: Any,
    tiny: Any,
    digests: Any,
    tmp_path: Path,
    crash_at: Any,
    crash: type[Exception],
) -> None:
    """Also where another machine, to which it is slower, goes on."""
    gain(first)
    config = tiny(epochs=0.5)
    train(config, tmp_path / "unbroken")
    with pytest.raises(crash):
        train(config, tmp_path / "broken", report=crash_at(4))
    gain(then)
    rows: list[dict[str, Any]] = []
    train(config, tmp_path / "broken", resume=True, report=rows.append)
    assert digests(tmp_path / "broken") == digests(tmp_path / "unbroken")
    (start,) = [row for row in rows if row["kind"] == "start"]
    assert start["precision"] == ("bf16" if first > 1 else "fp32")
    slow = [row for row in rows if "goes on in bf16" in row.get("text", "")]
    state = json.loads((tmp_path / "broken" / "config.json").read_text())
    slow += [note for note in state["notes"] if "goes on in bf16" in note]
    assert bool(slow) == (first > then)


def test_a_state_names_its_precision(
    gain: Any, tiny: Any, tmp_path: Path, crash_at: Any, crash: type[Exception]
) -> None:
    gain(3.0)
    with pytest.raises(crash):
        train(tiny(epochs=0.5), tmp_path, report=crash_at(4))
    state, _ = newest_state(tmp_path)
    assert state is not None
    assert state.made_with["precision"] == "bf16"


@pytest.mark.parametrize(
    ("word", "flags", "expected"),
    [
        ("auto", True, "fp32"),
        ("auto", False, "fp32"),
        ("fast", True, "bf16"),
        ("fast", False, "fp32"),
        ("fp32", True, None),
        ("bf16", False, None),
    ],
)
def test_a_state_of_an_earlier_version_goes_on_in_what_that_computed_in(
    word: str, flags: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: flags)
    monkeypatch.setattr(devices, "bf16_gain", lambda product=None: 5.0)
    config = {"train": {"precision": word}}
    assert precision_of_state({}, config, CPU) == expected
    for junk in ({"precision": 7}, {"precision": "fp64"}, {"threads": 1}):
        assert precision_of_state(junk, config, CPU) == expected
    assert precision_of_state({"precision": "bf16"}, config, CPU) == "bf16"
    assert precision_of_state({}, {"train": 3}, CPU) == "fp32"


def test_the_older_word_is_auto() -> None:
    old = to_dict(TrainConfig())
    old["train"]["precision"] = "fast"
    assert stored_config(old) == TrainConfig()
    assert from_dict(LoopChoice, {"precision": "fast"}) == LoopChoice()
    for name in ("photos", "cifar10", "fashion_mnist"):
        assert get_recipe(name).train.precision == "auto"


def test_the_trial_is_the_largest_product_of_the_network() -> None:
    rows, inner, outer = largest_product(create_model("mixer_s16"), 512)
    assert (inner, outer) in ((512, 2048), (2048, 512))
    assert rows == 2**26 // (512 * 2048)
    # A few images of a tiny network are not made more than they are.
    small = create_model("mixer_pico2", num_blocks=1)
    rows, inner, outer = largest_product(small, 1)
    assert rows == small.config.num_patches
    huge = create_model("mixer_pico2", num_blocks=1, hidden_dim=9, channels_mlp_dim=99)
    assert largest_product(huge, 2)[1:] in ((9, 99), (99, 9))
    for family in ("gmlp_ti16", "resmlp_12"):
        assert min(largest_product(create_model(family, num_blocks=1), 8)) > 0


@pytest.mark.parametrize(
    ("precision", "word", "expected"),
    [
        ("fp32", "auto", None),
        ("bf16", "auto", torch.bfloat16),
        ("bf16", "fp32", torch.float32),
        ("fp32", "bf16", torch.bfloat16),
    ],
)
def test_muon_orthogonalises_in_the_precision_of_the_run(
    precision: Any, word: Any, expected: torch.dtype | None
) -> None:
    model = create_model("mixer_pico2", num_classes=3)
    choice = OptimChoice(name="muon", muon_ns_dtype=word)
    optimizer = build_optimizer(model, choice, precision=precision)
    assert optimizer.defaults["dtype"] == expected
