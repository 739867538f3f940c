"""Ours and its peers in bf16 and int8: the object that commands use, and who is absent."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mlp_mixer import MlpMixer
from mlp_mixer.bench import competitors, peers, run
from mlp_mixer.bench.competitors import AbsentError, BenchJob, answers, ours
from mlp_mixer.bench.peers import PEERS, RARE
from mlp_mixer.runtime import FAST_TOLERANCE, TOLERANCE, Way
from mlp_mixer.runtime.trial import Chosen

CPU = torch.device("cpu")


def job(task: str = "infer", dtype: str = "fp32", **more: Any) -> BenchJob:
    made = run._job("mixer_s32", task, 2, CPU, dtype)
    return dataclasses.replace(made, **more)


@pytest.mark.parametrize(
    ("fast", "dtype", "expected"),
    [
        (False, "fp32", (TOLERANCE, "auto")),
        (True, "fp32", (FAST_TOLERANCE, "auto")),
        (False, "bf16", (TOLERANCE, "bf16")),
    ],
)
def test_ours_is_what_the_commands_choose(
    fast: bool,
    dtype: str,
    expected: tuple[float, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def chosen(
        model: MlpMixer, images: torch.Tensor, *, tolerance: float, precision: str
    ) -> Chosen:
        asked.append((tolerance, precision))
        return Chosen(Way("openvino", "bf16"), lambda x: model(x).detach())

    monkeypatch.setattr(competitors, "fastest", chosen)
    here = job(fast=fast, dtype=dtype)
    competitor = ours(here)
    assert asked == [expected]
    assert (competitor.precision, competitor.note) == ("bf16", "openvino")
    torch.testing.assert_close(answers(here, competitor), here.expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_our_default_step_is_that_of_the_trial(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(competitors, "computed_in", lambda word, device: precision)
    assert ours(job("train", fast=True)).precision == precision
    assert ours(job("train")).precision == "fp32"


@pytest.mark.parametrize("mode", [None, "max-autotune"])
def test_on_a_gpu_it_is_compiled_as_its_peer_is(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Recorded:
        compiled = True
        notes = ("tokens first: 1.30 times as fast as plain",)

        def __init__(self, model: MlpMixer, precision: str, **how: Any) -> None:
            made.append((precision, how))

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images

    monkeypatch.setattr(competitors, "OnCuda", Recorded)
    monkeypatch.setattr(BenchJob, "on_cuda", property(lambda self: True))
    build = ours if mode is None else PEERS["ours-autotune"]
    for dtype in ("fp32", "bf16"):
        competitor = build(job(dtype=dtype))
        assert competitor.precision == dtype
        said = "compiled; tokens first: 1.30 times as fast as plain"
        assert competitor.note == said
    assert build(job(fast=True)).precision == "bf16"
    how = {"mode": mode, "compile_after": 0}
    assert made == [("fp32", how), ("bf16", how), ("bf16", how)]


@pytest.mark.usefixtures("timm_of_one_block")
def test_peers_in_int8_are_near_and_say_so() -> None:
    for package in ("timm", "onnxruntime", "onnx", "onnxscript"):
        pytest.importorskip(package)
    here = job()
    row = run._admit(here, "ort-int8", {})
    assert (row["status"], row["precision"]) == ("measured", "int8")
    assert row["error"] > 1e-4
    assert "of the classes as in fp32; dynamic ranges" in row["note"]


@pytest.mark.usefixtures("timm_of_one_block")
def test_timm_runs_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for inference, eager in training."""
    pytest.importorskip("timm")
    compiled = []

    def compile_it(model: Any) -> Any:
        compiled.append(model)
        return model

    monkeypatch.setattr(peers.torch, "compile", compile_it)
    here = job()
    competitor = PEERS["timm-bf16"](here)
    assert (competitor.precision, len(compiled)) == ("bf16", 1)
    error = (answers(here, competitor) - here.expected).abs().max()
    assert 1e-4 < error < 0.1
    assert PEERS["timm-bf16"](job("train")).precision == "bf16"
    assert len(compiled) == 1


@pytest.mark.usefixtures("timm_of_one_block")
def test_openvino_that_ignores_the_hint_is_absent() -> None:
    for package in ("openvino", "timm", "onnx", "onnxscript"):
        pytest.importorskip(package)
    import openvino

    can = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if can:
        assert PEERS["openvino-bf16"](job()).precision == "bf16"
        return
    said = "openvino does not compute in bf16 on this processor"
    with pytest.raises(AbsentError, match=said):
        PEERS["openvino-bf16"](job())


@pytest.mark.parametrize("name", ["openvino-bf16", "ort-int8"])
def test_runtimes_do_not_train(name: str) -> None:
    with pytest.raises(AbsentError, match="it does not train|is not installed"):
        PEERS[name](job("train"))


def test_a_row_names_its_contender_and_its_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {"timm-bf16", "openvino-bf16", "ort-int8"} <= set(PEERS) & set(RARE)

    def plain(job: BenchJob) -> competitors.Competitor:
        return competitors.Competitor(lambda: job.model(job.images), "bf16")

    monkeypatch.setattr(run, "ours", plain)
    monkeypatch.setitem(PEERS, "timm-bf16", plain)
    rows = run.bench(
        "mixer_s32", "infer", 1, CPU, peers="timm-bf16", rounds=1, fast=True
    )["rows"]
    assert [row["contender"] for row in rows] == ["ours", "timm-bf16"]
    for row in rows:
        assert row["precision"] == "bf16"
        assert row["images_per_s"] > 0
        assert row["ratio"] > 0
