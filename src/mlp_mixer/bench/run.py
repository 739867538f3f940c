"""Run a bench: build the competitors, check their answers, let them take turns."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from ..errors import unknown
from ..machine import environment
from ..models import cost, create_model
from .competitors import AbsentError, BenchJob, Competitor, answers, ours
from .measure import Times, interleave, memory, percentiles, roofline, timed
from .peers import PEERS, RARE
from .start import start_commands

TASKS = ("infer", "train", "predict")
PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "triton")
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 3e-1, "fp8": 3e-1}
"""The largest difference from fp32 at which a network still is the same function.

In units of the largest logit if that is above 1.
"""

_ERRORS = TOLERANCE | {"tf32": 1e-2}


def bench(
    model: str,
    task: str,
    batch: int,
    device: torch.device,
    dtype: str = "fp32",
    peers: str = "all",
    rounds: int = 7,
    thorough: bool = False,
    fast: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an architecture with random weights against its peers.

    Only competitors whose answers agree with fp32 are measured.

    Args:
        model: The name of an architecture.
        task: One of `TASKS`: "infer" a batch, "train" for one step, or "predict", the
            command for one picture.
        batch: Images at once.
        device: Where.
        dtype: A key of `TOLERANCE`.
        peers: "none"; "all", without those in `RARE`; or names from `PEERS` with commas
            between them.
        rounds: Turns of each competitor.
        thorough: "all" includes those in `RARE`.
        fast: Ours may compute in other precisions too, within the tolerance that the
            commands' `--fast` admits.
        tell: Is called with what is being done.

    Returns:
        The facts of the run (`when`, `environment`, `versions`, ...), and `rows`, one
        for each competitor. A row has medians with quartiles `_q1` and `_q3`. `ratio`
        is its speed in units of ours, from quotients within a round, so that a machine
        that slows down between rounds does not matter. `mfu` is its FLOP/s over those
        of a large matmul in the same run. `roofline` is the time that this matmul and
        a large copy would need over the time taken.

    Raises:
        UserError: The model, the task, the dtype or a peer is unknown.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if dtype not in TOLERANCE:
        raise unknown("dtype", dtype, TOLERANCE)
    names = peer_names(peers, thorough)
    facts = {
        "model": model,
        "task": task,
        "batch": 1 if task == "predict" else batch,
        "dtype": dtype,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(device),
        "versions": _versions(),
    }
    if task == "predict":
        return facts | {"rows": _predict_rows(model, rounds)}

    job = replace(_job(model, task, batch, device, dtype), fast=fast)
    # First, since a kernel that fails can leave a GPU that answers nothing any more.
    tell("measuring the machine")
    best = roofline(device, dtype)
    ready: dict[str, Competitor] = {}
    rows = []
    for name in ("ours", *names):
        tell(f"building {name}")
        row: dict[str, Any] = {"competitor": name, "contender": name}
        rows.append(row | _admit(job, name, ready))
    tell(f"measuring {len(ready)} competitors in {rounds} rounds")
    calls = {name: competitor.call for name, competitor in ready.items()}
    times, failures = interleave(calls, rounds, device)
    for row in rows:
        name = str(row["competitor"])
        if name in failures:
            row["status"] = _failed(failures[name])
        if name not in times:
            continue
        row |= _numbers(times, name, batch)
        if ready[name].checked:
            # Our counts of FLOPs hold for networks that compute the same.
            row |= _efficiency(job, best, row["images_per_s"])
    limits = {"matmul_flops": best["flops"], "copy_bytes": best["bytes"]}
    return facts | limits | {"rows": rows}


def _versions() -> str:
    """Return the packages that are installed, as pip writes them."""
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    return " ".join(f"{name}=={importlib.metadata.version(name)}" for name in installed)


def _predict_rows(model: str, rounds: int) -> list[dict[str, Any]]:
    """Measure the command for one picture."""
    rows = []
    with start_commands(model) as commands:
        # Each call starts a process, so there is nothing to warm up.
        times, failures = interleave(commands, rounds, torch.device("cpu"), each=1)
        for name in commands:
            row = {"competitor": name, "contender": name, "status": "measured"}
            if name in failures:
                row["status"] = _failed(failures[name])
            else:
                row |= _numbers(times, name, 1)
            rows.append(row)
    return rows


def peer_names(peers: str, thorough: bool = False) -> list[str]:
    """Return the names of the peers that are meant.

    Args:
        peers: "none", "all", or names with commas between them.
        thorough: "all" includes those in `RARE`.

    Raises:
        UserError: A name is unknown; the error tells the nearest ones.
    """
    if peers == "none":
        return []
    if peers == "all":
        return [name for name in PEERS if thorough or name not in RARE]
    names = [name.strip() for name in peers.split(",")]
    for name in names:
        if name not in PEERS:
            raise unknown("peer", name, ["all", "none", *PEERS])
    return list(dict.fromkeys(names))


def _job(
    name: str, task: str, batch: int, device: torch.device, dtype: str
) -> BenchJob:
    """Make random weights and images of noise."""
    torch.manual_seed(0)
    model = create_model(name, gelu="erf").eval()
    # As after training no tensor is zero, so that a part that is left out is noticed,
    # and the head answers.
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter is model.head.weight:
            parameter.data += 0.05 * torch.randn_like(parameter)
    images = torch.randn(batch, model.config.in_channels, *model.config.image_size)
    labels = torch.randint(model.config.num_classes, (batch,))
    return BenchJob(model.to(device), images.to(device), labels.to(device), task, dtype)


def _admit(job: BenchJob, name: str, ready: dict[str, Competitor]) -> dict[str, Any]:
    """Build a competitor, compare its answers with fp32, and warm it up.

    If all goes well it is put into `ready`.

    Returns:
        Its `status`, and what is known of it already.
    """
    expected = job.expected
    device = job.images.device
    try:
        before = memory(device, reset=True)
        competitor = ours(job) if name == "ours" else PEERS[name](job)
        got = answers(job, competitor)
        # Warm: a compiler may still be choosing.
        for _ in range(2):
            timed(competitor.call, device)
        after = memory(device)
    except AbsentError as reason:
        return {"status": str(reason)}
    # Whoever fails here, such as a compiler without a C++ compiler, is a row and not
    # the end: a machine that is lent for minutes still measures all others.
    except Exception as error:
        return {"status": _failed(error)}
    row: dict[str, Any] = {"precision": competitor.precision, "note": competitor.note}
    if competitor.checked:
        row["error"] = (got - expected).abs().max().item()
        scale = max(1.0, expected.abs().max().item())
        # "not <=" and not ">": a NaN must not pass.
        if not row["error"] <= _ERRORS[competitor.precision] * scale:
            status = f"not measured: its answers differ by {row['error']:.2g}"
            return row | {"status": status}
    if competitor.precision in ("int8", "fp8"):
        same = (got.argmax(-1) == expected.argmax(-1)).double().mean()
        row["note"] = f"{same:.1%} of the classes as in fp32; {competitor.note}"
    ready[name] = competitor
    row["status"] = "measured"
    row["peak_mib"] = after - before if after and before else None
    return row


def _failed(error: Exception) -> str:
    """Return the status of a competitor that failed."""
    first_line = str(error).strip().partition("\n")[0][:80]
    return f"failed: {type(error).__name__} {first_line}"


def _numbers(times: dict[str, Times], name: str, images: int) -> dict[str, Any]:
    """Return what a competitor's times say of it."""
    mine = times[name]
    speeds = [images / seconds for seconds in mine.wall]
    cpu = [seconds / images for seconds in mine.cpu]
    row: dict[str, Any] = {
        "n": len(speeds),
        "cpu_s_per_image": percentiles(cpu, 50)[0],
    }
    for percent in (50, 90, 99):
        row[f"p{percent}_ms"] = 1e3 * percentiles(mine.wall, percent)[0]
    row |= _quartiles("images_per_s", speeds)
    if "ours" in times:
        turns = zip(times["ours"].turns, mine.turns, strict=True)
        row |= _quartiles("ratio", [our_turn / turn for our_turn, turn in turns])
    return row


def _quartiles(key: str, values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles under the names of their columns."""
    low, median, high = percentiles(values, 25, 50, 75)
    return {f"{key}_q1": low, key: median, f"{key}_q3": high}


def _efficiency(
    job: BenchJob, best: dict[str, float], images_per_s: float
) -> dict[str, float]:
    """Compare a speed with what the machine can do at best."""
    # A backward pass has two products for each one of the forward pass.
    passes = 3 if job.trains else 1
    counted = cost(job.model)
    flops = 2 * counted.macs * passes
    bytes_of_number = 4 if job.dtype in ("fp32", "int8") else 2
    # The least traffic for an image: itself, and its share of the weights.
    numbers = counted.params * passes / len(job.images) + job.images[0].numel()
    traffic = bytes_of_number * numbers
    ideal_seconds = max(flops / best["flops"], traffic / best["bytes"])
    return {
        "mfu": flops / best["flops"] * images_per_s,
        "roofline": ideal_seconds * images_per_s,
    }
