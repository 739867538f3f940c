"""A bench: which competitors are measured, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mlp_mixer import UserError
from mlp_mixer.bench import run
from mlp_mixer.bench.competitors import AbsentError, BenchJob, Competitor
from mlp_mixer.bench.peers import PEERS, RARE
from mlp_mixer.bench.run import bench, peer_names
from mlp_mixer.models import MixerConfig, cost

CPU = torch.device("cpu")


def test_a_bench_without_competitors_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(job: BenchJob) -> Competitor:
        raise AbsentError("compute capability 8.6 is older than 8.9")

    monkeypatch.setattr(run, "ours", absent)
    result = bench("mixer_s32", "infer", 2, CPU, dtype="fp8", peers="none")
    said = "compute capability 8.6 is older than 8.9"
    (row,) = result["rows"]
    assert (row["contender"], row["status"]) == ("ours", said)


def test_a_failure_of_ours_is_a_row_beside_its_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(job: BenchJob) -> Competitor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def plain(job: BenchJob) -> Competitor:
        return Competitor(lambda: job.model(job.images))

    monkeypatch.setattr(run, "ours", fails)
    monkeypatch.setitem(PEERS, "timm", plain)
    result = bench("mixer_s32", "infer", 1, CPU, peers="timm", rounds=1)
    mine, timm = result["rows"]
    said = "failed: RuntimeError CUDA error: an illegal memory access was encountered"
    assert mine["status"] == said
    assert timm["images_per_s"] > 0
    assert "ratio" not in timm, "there is nothing to divide by"


def test_rows_have_their_numbers(
    small: MixerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: BenchJob) -> Competitor:
        raise RuntimeError("no compiler\nand more")

    def absent(job: BenchJob) -> Competitor:
        raise AbsentError("it is not installed")

    def wrong(job: BenchJob) -> Competitor:
        return Competitor(lambda: job.model(job.images) * 1.001)

    def unchecked(job: BenchJob) -> Competitor:
        return Competitor(lambda: job.labels, checked=False)

    def sticky(job: BenchJob) -> Competitor:
        calls = iter([job.model(job.images)] * 2)
        # As a kernel whose fault shows only when it is called again.
        return Competitor(lambda: next(calls))

    fake = {
        "timm": fails,
        "autotune": sticky,
        "ort": absent,
        "compile": wrong,
        "vit": unchecked,
    }
    fake["ours-graph"] = unchecked
    for name, build in fake.items():
        monkeypatch.setitem(PEERS, name, build)

    def times(
        calls: dict[str, Any], rounds: int, device: torch.device
    ) -> tuple[dict[str, Any], dict[str, Exception]]:
        assert set(calls) == {"ours", "vit", "ours-graph"}
        times = {
            "ours": run.Times([0.1] * 4, [0.2] * 4, [0.1, 0.1]),
            # Twice as slow in the second round: the ratio has a spread.
            "vit": run.Times([0.4] * 4, [0.8] * 4, [0.4, 0.8]),
        }
        return times, {"ours-graph": MemoryError("no room\nat all")}

    def once(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
        call()
        return 0.0, 0.0

    monkeypatch.setattr(run, "timed", once)
    monkeypatch.setattr(run, "interleave", times)
    result = bench("mixer_s32", "infer", 2, CPU, peers=",".join(fake), rounds=2)
    rows = {row["competitor"]: row for row in result["rows"]}
    assert list(rows) == ["ours", *fake]
    assert rows["timm"]["status"] == "failed: RuntimeError no compiler"
    assert rows["autotune"]["status"].startswith("failed: StopIteration")
    assert rows["ours-graph"]["status"] == "failed: MemoryError no room"
    assert "images_per_s" not in rows["ours-graph"]
    assert rows["ort"]["status"] == "it is not installed"
    said = "not measured: its answers differ by 0.00"
    assert rows["compile"]["status"].startswith(said)
    assert "images_per_s" not in rows["compile"]
    mine = rows["ours"]
    assert mine["images_per_s"] == pytest.approx(20)
    assert mine["p99_ms"] == pytest.approx(100)
    assert mine["cpu_s_per_image"] == pytest.approx(0.1)
    assert mine["n"] == 4
    vit = rows["vit"]
    quartiles = [vit[key] for key in ("ratio_q1", "ratio", "ratio_q3")]
    assert quartiles == pytest.approx([0.15625, 0.1875, 0.21875])
    assert mine["mfu"] == pytest.approx(20 * 2 * cost(small).macs / 1e12)
    assert mine["roofline"] >= mine["mfu"]
    assert "mfu" not in vit


def test_what_is_unknown_is_named() -> None:
    for peers, hint in (("tim", "'timm'"), ("timm,openvin", "'openvino'")):
        with pytest.raises(UserError, match=f"unknown peer .*did you mean {hint}"):
            peer_names(peers)
    said = "unknown task 'training'; did you mean 'train'"
    with pytest.raises(UserError, match=said):
        bench("mixer_s32", "training", 1, CPU)
    with pytest.raises(UserError, match="unknown dtype 'bf61'; did you mean 'bf16'"):
        bench("mixer_s32", "infer", 1, CPU, dtype="bf61")
    assert peer_names("none") == []
    assert set(PEERS) - set(peer_names("all")) == set(RARE)
    assert set(peer_names("all", thorough=True)) == set(PEERS)
    assert peer_names("vit, timm,vit") == ["vit", "timm"]
