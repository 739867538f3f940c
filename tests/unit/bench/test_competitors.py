"""Who takes part: the same function with the same weights, checked; who is absent says
why.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.bench import competitors as competitors
from mlp_mixer.bench import run
from mlp_mixer.bench.competitors import (
    PEERS,
    AbsentError,
    BenchJob,
    Competitor,
    answers,
    ours,
)
from mlp_mixer.bench.run import bench, peer_names
from mlp_mixer.models import VARIANTS, build_network, cost

CPU = torch.device("cpu")
SMALL = dataclasses.replace(VARIANTS["mixer_s32"], num_blocks=1, num_classes=7)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real row of the table with one block; no large matmul."""
    monkeypatch.setitem(VARIANTS, "mixer_s32", SMALL)
    monkeypatch.setattr(
        run,
        "create_model",
        lambda name, gelu: build_network(dataclasses.replace(SMALL, gelu=gelu)),
    )
    monkeypatch.setattr(
        run, "roofline", lambda device, dtype: {"flops": 1e12, "bytes": 1e10}
    )


def job(task: str = "infer", dtype: str = "fp32", batch: int = 2) -> BenchJob:
    return run._job("mixer_s32", task, batch, CPU, dtype)


def twin(job: BenchJob) -> Any:
    """timm's network of one block, which none of its names makes."""
    from timm.models.mlp_mixer import MlpMixer

    model = MlpMixer(num_classes=7, patch_size=32, num_blocks=1, embed_dim=512)
    model.load_state_dict(job.model.state_dict())
    return model.eval()


def test_the_weights_are_nowhere_zero() -> None:
    for name, parameter in job().model.named_parameters():
        assert parameter.abs().gt(1e-9).float().mean() > 0.99, name


@pytest.mark.parametrize(
    "name", ["ours", "timm", "ort", "openvino", "ours-ort", "ours-openvino"]
)
def test_competitors_answer_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("timm", "onnxruntime", "onnx", "onnxscript", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setattr(competitors, "timm_twin", twin)
    here = job()
    found = answers(here, ours(here) if name == "ours" else PEERS[name](here))
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
    assert torch.equal(here.model.head.weight, job("train").model.head.weight), (
        "the reference was trained too"
    )


def test_precision_is_said_and_kept() -> None:
    here = job(dtype="bf16")
    competitor = ours(here)
    error = (answers(here, competitor) - here.expected).abs().max()
    assert competitor.precision == "bf16"
    assert 1e-4 < error < 0.1


def test_fp8_says_how_many_classes_stay_and_runs_beside_bf16() -> None:
    here = job(dtype="fp8", batch=4)
    ready: dict[str, Competitor] = {}
    row, beside, plain = (
        run._admit(here, name, ready) for name in ("ours", "ours-bf16", "vit")
    )
    assert (row["status"], row["precision"]) == ("measured", "fp8")
    assert 1e-3 < row["error"] / here.expected.abs().max() < 0.1
    same = (
        (answers(here, ready["ours"]).argmax(-1) == here.expected.argmax(-1))
        .float()
        .mean()
        .item()
    )
    assert row["note"] == f"{same:.1%} of the classes as in fp32; {ready['ours'].note}"
    assert (beside["precision"], beside["note"]) == ("bf16", "")
    assert beside["error"] < row["error"]
    assert plain.get("precision", "bf16") == "bf16", "peers run in bf16 beside fp8"
    with pytest.raises(AbsentError, match="^it does not train$"):
        ours(job("train", "fp8"))
    with pytest.raises(
        AbsentError, match="^it is for inference of at most 64 images on CUDA$"
    ):
        PEERS["ours-graph"](here)


def test_a_bench_of_nobody_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(job: BenchJob) -> Competitor:
        raise AbsentError("compute capability 8.6 is older than 8.9")

    monkeypatch.setattr(run, "ours", absent)
    rows = bench("mixer_s32", "infer", 2, CPU, dtype="fp8", peers="none")["rows"]
    assert rows == [
        {"competitor": "ours", "status": "compute capability 8.6 is older than 8.9"}
    ]


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
            r"openvino is not installed \(pip install openvino\)",
        ),
        ("openvino", "-", "train", "it does not train"),
        ("ours-ort", "-", "train", "it does not train"),
    ],
)
def test_the_absent_say_why(
    name: str, missing: str, task: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda package: None if package == missing else object(),
    )
    with pytest.raises(AbsentError, match=said):
        PEERS[name](job(task))


def test_rows_have_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(job: BenchJob) -> Competitor:
        raise RuntimeError("no compiler\nand more")

    def absent(job: BenchJob) -> Competitor:
        raise AbsentError("it is not installed")

    twice = lambda job: Competitor(lambda: job.model(job.images) * 1.001)  # noqa: E731
    fake = {
        "timm": fails,
        "ort": absent,
        "compile": twice,
        "vit": lambda job: Competitor(lambda: job.labels, checked=False),
    }
    for name, build in fake.items():
        monkeypatch.setitem(PEERS, name, build)
    monkeypatch.setattr(run, "timed", lambda call, device: (0.0, 0.0))

    def times(
        calls: dict[str, Any], rounds: int, device: torch.device
    ) -> dict[str, Any]:
        assert set(calls) == {"ours", "vit"}
        seconds = {"ours": 0.1, "vit": 0.4}
        return {
            n: run.Times([s] * 4, [2 * s] * 4, [s, 2 * s] if n == "vit" else [s, s])
            for n, s in seconds.items()
        }

    monkeypatch.setattr(run, "interleave", times)
    result = bench("mixer_s32", "infer", 2, CPU, peers=",".join(fake), rounds=2)
    rows = {row["competitor"]: row for row in result["rows"]}
    assert list(rows) == ["ours", *fake]
    assert rows["timm"]["status"] == "failed: RuntimeError no compiler"
    assert rows["ort"]["status"] == "it is not installed"
    assert rows["compile"]["status"].startswith(
        "not measured: its answers differ by 0.00"
    )
    assert "images_per_s" not in rows["compile"]
    mine = rows["ours"]
    vit = rows["vit"]
    assert (
        mine["images_per_s"],
        mine["p99_ms"],
        mine["cpu_s_per_image"],
        mine["n"],
    ) == pytest.approx((20, 100, 0.1, 4))
    assert (vit["ratio_q1"], vit["ratio"], vit["ratio_q3"]) == pytest.approx(
        (0.15625, 0.1875, 0.21875)
    )
    assert mine["mfu"] == pytest.approx(20 * 2 * cost(SMALL).macs / 1e12)
    assert mine["roofline"] >= mine["mfu"]
    assert "mfu" not in vit


def test_what_is_unknown_is_named() -> None:
    for peers, hint in (("tim", "'timm'"), ("timm,openvin", "'openvino'")):
        with pytest.raises(UserError, match=f"unknown peer .*did you mean {hint}"):
            peer_names(peers)
    with pytest.raises(
        UserError, match="unknown task 'training'; did you mean 'train'"
    ):
        bench("mixer_s32", "training", 1, CPU)
    with pytest.raises(UserError, match="unknown dtype 'bf61'; did you mean 'bf16'"):
        bench("mixer_s32", "infer", 1, CPU, dtype="bf61")
    assert peer_names("none") == []
    assert set(PEERS) - set(peer_names("all")) == {
        "autotune",
        "ours-graph",
        "ours-autotune",
        "ours-bf16",
    }
    assert set(peer_names("all", thorough=True)) == set(PEERS)
    assert peer_names("vit, timm,vit") == ["vit", "timm"]
