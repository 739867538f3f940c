"""One bench: build the competitors, check their answers, let them take turns, and
count.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from ..errors import unknown
from ..machine import environment
from ..models import cost, create_model
from .competitors import PEERS, RARE, AbsentError, BenchJob, Competitor, answers, ours
from .measure import Times, interleave, memory, percentiles, roofline, timed
from .start import start_commands

TASKS = ("infer", "train", "predict")
PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "triton")
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 3e-1, "fp8": 3e-1}
"""Largest difference from fp32 that is still the same function, in units of the largest
logit if that is above 1.
"""


def bench(
    model: str,
    task: str,
    batch: int,
    device: torch.device,
    dtype: str = "fp32",
    peers: str = "all",
    rounds: int = 7,
    thorough: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an architecture (random weights, erf GELU) against its peers: facts, and
    `rows`, one per competitor.

    peers: "none", "all" (those in `RARE` only if thorough), or names from `PEERS` with
        commas between.
    A row has medians with quartiles `_q1` and `_q3`. `ratio` is its speed in units of
    ours, from quotients within a round, so that a machine that slows down between
    rounds does not matter. `mfu` is in units of a large matmul in the same run;
    `roofline` is the time that this matmul and a copy would need over the time taken.
    Only competitors whose answers agree with fp32 are measured. `UserError` for an
    unknown model, task, dtype or peer.
    """
    for kind, word, known in (("task", task, TASKS), ("dtype", dtype, TOLERANCE)):
        if word not in known:
            raise unknown(kind, word, known)
    names = peer_names(peers, thorough)
    facts = {
        "model": model,
        "task": task,
        "batch": 1 if task == "predict" else batch,
        "dtype": dtype,
    }
    facts |= {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(device),
    }
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    facts["versions"] = " ".join(
        f"{name}=={importlib.metadata.version(name)}" for name in installed
    )
    if task == "predict":
        with start_commands(model) as commands:
            times = interleave(commands, rounds, torch.device("cpu"), each=1)
        return facts | {
            "rows": [
                {"competitor": name, **_numbers(times, name, 1)} for name in commands
            ]
        }
    job = _job(model, task, batch, device, dtype)
    ready: dict[str, Competitor] = {}
    rows = []
    for name in ("ours", *names):
        tell(f"building {name}")
        rows.append({"competitor": name, **_admit(job, name, ready)})
    best = roofline(device, dtype)
    tell(f"measuring {len(ready)} competitors in {rounds} rounds")
    times = interleave(
        {name: competitor.call for name, competitor in ready.items()}, rounds, device
    )
    passes = (
        3 if task == "train" else 1
    )  # a backward pass is two products for each of the forward pass
    counted = cost(job.model)
    size = 4 if dtype in ("fp32", "int8") else 2
    flops = 2 * counted.macs * passes
    traffic = size * (counted.params * passes / batch + job.images[0].numel())
    for row in (row for row in rows if row["competitor"] in ready):
        row |= _numbers(times, row["competitor"], batch)
        if ready[row["competitor"]].checked:
            ideal = max(flops / best["flops"], traffic / best["bytes"])
            row |= {
                "mfu": flops / best["flops"] * row["images_per_s"],
                "roofline": ideal * row["images_per_s"],
            }
    return facts | {
        "matmul_flops": best["flops"],
        "copy_bytes": best["bytes"],
        "rows": rows,
    }


def peer_names(peers: str, thorough: bool = False) -> list[str]:
    """The peers that are meant; `UserError` with near misses for one that is not known."""
    if peers in ("none", "all"):
        return [
            name for name in PEERS if peers == "all" and (thorough or name not in RARE)
        ]
    names = [name.strip() for name in peers.split(",")]
    for name in names:
        if name not in PEERS:
            raise unknown("peer", name, ["all", "none", *PEERS])
    return list(dict.fromkeys(names))


def _job(
    name: str, task: str, batch: int, device: torch.device, dtype: str
) -> BenchJob:
    """Weights that are no zeros anywhere, as after training, and a head that answers;
    images of noise.
    """
    torch.manual_seed(0)
    model = create_model(name, gelu="erf").eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter is model.head.weight:
            parameter.data += 0.05 * torch.randn_like(parameter)
    images = torch.randn(batch, model.config.in_channels, *model.config.image_size)
    labels = torch.randint(model.config.num_classes, (batch,))
    return BenchJob(model.to(device), images.to(device), labels.to(device), task, dtype)


def _admit(job: BenchJob, name: str, ready: dict[str, Competitor]) -> dict[str, Any]:
    """Build a competitor, compare its answers with fp32 and warm it up; it is `ready`
    if all went well.
    """
    expected = job.expected
    device = job.images.device
    before = memory(device, forget=True)
    try:
        competitor = ours(job) if name == "ours" else PEERS[name](job)
        got = answers(job, competitor)
    except AbsentError as reason:
        return {"status": str(reason)}
    # a peer that fails here, such as a compiler without a compiler, ends nothing
    except Exception as error:
        if name.startswith("ours"):
            raise
        return {
            "status": f"failed: {type(error).__name__} {str(error).strip().partition(chr(10))[0][:80]}"
        }
    row: dict[str, Any] = {"precision": competitor.precision, "note": competitor.note}
    if competitor.checked:
        row["error"] = (got - expected).abs().max().item()
        if not row["error"] <= TOLERANCE[competitor.precision] * max(
            1.0, expected.abs().max().item()
        ):
            return row | {
                "status": f"not measured: its answers differ by {row['error']:.2g}"
            }
    if competitor.precision in ("int8", "fp8"):
        same = (got.argmax(-1) == expected.argmax(-1)).double().mean()
        row["note"] = f"{same:.1%} of the classes as in fp32; {competitor.note}"
    for _ in range(2):
        timed(competitor.call, device)
    ready[name], after = competitor, memory(device)
    return row | {
        "status": "measured",
        "peak_mib": after - before if after and before else None,
    }


def _numbers(times: dict[str, Times], name: str, images: int) -> dict[str, Any]:
    mine = times[name]
    speeds = [images / seconds for seconds in mine.wall]
    cpu = [seconds / images for seconds in mine.cpu]
    ratios = (
        [a / b for a, b in zip(times["ours"].turns, mine.turns, strict=True)]
        if "ours" in times
        else []
    )
    row: dict[str, Any] = {
        "status": "measured",
        "n": len(speeds),
        "cpu_s_per_image": percentiles(cpu, 50)[0],
    }
    row |= {f"p{p}_ms": 1e3 * percentiles(mine.wall, p)[0] for p in (50, 90, 99)}
    for key, values in (("images_per_s", speeds), ("ratio", ratios)):
        row |= zip(
            (f"{key}_q1", key, f"{key}_q3"),
            percentiles(values, 25, 50, 75) if values else (),
            strict=False,
        )
    return row
