"""Who takes part: the same function with the same weights, checked.

A competitor that is absent says why.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from mlp_mixer.bench import run
from mlp_mixer.bench.competitors import (
    AbsentError,
    BenchJob,
    Competitor,
    answers,
    ours,
)
from mlp_mixer.bench.peers import PEERS


def job(task: str = "infer", dtype: str = "fp32", batch: int = 2) -> BenchJob:
    return run._job("mixer_s32", task, batch, torch.device("cpu"), dtype)


def test_the_weights_are_nowhere_zero() -> None:
    for name, parameter in job().model.named_parameters():
        assert parameter.abs().gt(1e-9).float().mean() > 0.99, name


@pytest.mark.usefixtures("timm_of_one_block")
@pytest.mark.parametrize(
    "name", ["ours", "timm", "ort", "openvino", "ours-ort", "ours-openvino", "ours-sbc"]
)
def test_competitors_answer_alike(name: str) -> None:
    for package in ("timm", "onnxruntime", "onnx", "onnxscript", "openvino"):
        pytest.importorskip(package)
    if "openvino" in name and os.environ.get("ONEDNN_MAX_CPU_ISA") == "SSE41":
        pytest.skip("openvino has no LayerNorm for such processors")
    here = job()
    build = ours if name == "ours" else PEERS[name]
    found = answers(here, build(here))
    assert found.shape == (1, 2, 7)
    assert here.expected.std() > 0.1
    torch.testing.assert_close(found, here.expected, atol=1e-5, rtol=1e-5)


def test_a_training_step_trains() -> None:
    here = job("train")
    competitor = ours(here)
    losses = [competitor.call().item() for _ in range(12)]
    assert losses[:2] == pytest.approx(here.expected.tolist(), abs=1e-5)
    assert losses[-1] < losses[0] / 2
    assert competitor.precision == "fp32"
    untrained = job("train").model.head.weight
    assert torch.equal(here.model.head.weight, untrained), "the reference was trained"


def test_precision_is_said_and_kept() -> None:
    here = job(dtype="bf16")
    competitor = ours(here)
    error = (answers(here, competitor) - here.expected).abs().max()
    assert competitor.precision == "bf16"
    assert 1e-4 < error < 0.1


def test_fp8_says_how_many_classes_stay_and_runs_beside_bf16() -> None:
    here = job(dtype="fp8", batch=4)
    ready: dict[str, Competitor] = {}
    row = run._admit(here, "ours", ready)
    beside = run._admit(here, "ours-bf16", ready)
    plain = run._admit(here, "vit", ready)
    assert (row["status"], row["precision"]) == ("measured", "fp8")
    assert 1e-3 < row["error"] / here.expected.abs().max() < 0.1
    classes = answers(here, ready["ours"]).argmax(-1)
    same = (classes == here.expected.argmax(-1)).float().mean().item()
    assert row["note"] == f"{same:.1%} of the classes as in fp32; {ready['ours'].note}"
    assert beside["precision"] == "bf16"
    assert beside["note"] in ("torch", "openvino")
    assert beside["error"] < row["error"]
    assert plain.get("precision", "bf16") == "bf16", "peers run in bf16 beside fp8"
    with pytest.raises(AbsentError, match="^it does not train$"):
        ours(job("train", "fp8"))
    said = "^it is for inference of at most 64 images on CUDA$"
    with pytest.raises(AbsentError, match=said):
        PEERS["ours-graph"](here)


@pytest.mark.parametrize(
    ("name", "missing", "task", "said"),
    [
        ("timm", "timm", "infer", "timm is not installed"),
        ("compile", "timm", "train", "timm is not installed"),
        ("ort", "onnxruntime", "infer", "onnxruntime is not installed"),
        ("ort", "onnxscript", "infer", "onnxscript is not installed"),
        ("vit", "timm", "infer", "timm is not installed"),
        (
            "ours-openvino",
            "openvino",
            "infer",
            r"not installed \(pip install openvino\)",
        ),
        ("openvino", "-", "train", "it does not train"),
        ("ours-sbc", "-", "train", "it does not train"),
        ("ours-sbc-graph", "-", "infer", "it is for CUDA"),
        ("ours-ort", "-", "train", "it does not train"),
    ],
)
def test_the_absent_say_why(
    name: str, missing: str, task: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(package: str) -> object:
        return None if package == missing else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(AbsentError, match=said):
        PEERS[name](job(task))
