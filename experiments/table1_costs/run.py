"""Table 1 and the costs of Table 3: parameters, multiplications, speed and memory of
every variant, and of its rivals.

    python experiments/table1_costs/run.py --budget smoke|cpu|gpu|full [--out FOLDER]
    [--threads 2]

Plain modules in evaluation mode on random images, fp32 on a processor and bf16 on a
GPU. The networks of a group take turns, in rotating order, so that a busy moment falls
upon all of them; a row has the median of the counted passes. Accuracies, and the
paper's speeds and core-days, are claims of its Table 3 (published.csv), of trained
weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import common
from networks import PAIRS, built, counted, peak_mib, published

from mlp_mixer.bench.measure import interleave

SMALL = [
    "Mixer-S/32",
    "Mixer-S/16",
    "Mixer-B/32",
    "ViT-S/16",
    "ResNet-18",
    "ResNet-50",
    "BiT-R50x1",
]
MIDDLE = [
    "Mixer-B/16",
    "Mixer-L/32",
    "ViT-B/16",
    "ResNet-101",
    "BiT-R152x1",
    "BiT-R50x2",
]
LARGE = ["Mixer-L/16", "ViT-L/16", "BiT-R152x2"]
#         groups, images in a batch, rounds
SIZES: dict[str, tuple[list[list[str]], int, int]] = {
    "smoke": ([["Mixer-S/32", "ResNet-18"]], 2, 2),
    "cpu": ([SMALL, MIDDLE, LARGE, ["Mixer-H/14"]], 4, 5),
    "gpu": ([SMALL, MIDDLE, LARGE, ["Mixer-H/14", "ViT-H/14"]], 256, 20),
    "full": ([SMALL, MIDDLE, LARGE, ["Mixer-H/14", "ViT-H/14"]], 256, 100),
}
IMAGES = {"ImageNet": 1_281_167, "ImageNet-21k": 14_197_122, "JFT-300M": 303_000_000}
TPU, H200, SHARE = (
    61.5e12,
    989e12,
    0.4,
)  # peak FLOP/s of a TPUv3 core and, dense bf16, of an H200; what training gets


def measured(choice: argparse.Namespace, group: list[str]) -> dict[str, dict[str, Any]]:
    _, batch, rounds = SIZES[choice.budget]
    device = torch.device(choice.device)
    rows = {}
    calls = {}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    images = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)
    for name in group:
        model = built(name).to(device, dtype).eval()
        calls[name] = torch.inference_mode()(partial(model, images))
        weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
        rows[name] = {
            "weights_mib": weights,
            "pass_mib": peak_mib(calls[name], device),
            **counted(name),
        }
    measured_times, failures = interleave(calls, rounds, device, each=2)
    for error in failures.values():
        raise error
    for name, times in measured_times.items():
        middle = statistics.median(times.wall)
        quarters = statistics.quantiles(times.wall, n=4, method="inclusive")
        rows[name] |= {
            "images_per_s": batch / middle,
            "low": batch / quarters[2],
            "high": batch / quarters[0],
        }
        rows[name] |= {
            "cpu_s_per_image": statistics.median(times.cpu) / batch,
            "n": len(times.wall),
        }
    return rows


def training_table() -> str:
    """Core-days in today's units: the arithmetic of the pre-training, and what part of
    a core's peak that makes.
    """
    lines = []
    for row in published():
        images = float(row["epochs"]) * IMAGES[row["data"]]
        days = 1e3 * float(row["kilo_core_days"])
        flops = images * 3 * 2e9 * counted(row["model"])["gmacs"]
        share = flops / (days * 86400 * TPU)
        hours = flops / (H200 * SHARE * 3600)
        cells = [
            row["model"],
            row["data"],
            row["epochs"],
            row["top1"],
            row["images_per_s"],
            f"{days:.0f}",
        ]
        lines.append(
            [*cells, f"{flops / 1e18:.1f}", f"{100 * share:.0f} %", f"{hours:.0f}"]
        )
    heads = [
        "model",
        "data",
        "epochs",
        "ImageNet top-1",
        "images/s/core",
        "core-days",
        "EFLOP",
        "of the core's peak",
    ]
    return common.table([*heads, "H200 hours"], lines)


def main() -> None:
    choice = common.arguments(__doc__, data=False)
    results = common.Results(choice, __file__)
    for group in SIZES[choice.budget][0]:
        done = measured(choice, group) if set(group) - set(results.rows) else {}
        for name in group:
            results.get(name, partial(done.get, name))
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def rows_of(results: common.Results, budget: str) -> dict[str, dict[str, Any]]:
    groups = SIZES[budget][0]
    return {name: results.rows[name] for group in groups for name in group}


def told(results: common.Results, budget: str) -> str:
    """Costs and speeds, the pairs of equal accuracy, and core-days."""
    rows = rows_of(results, budget)
    machine = next(iter(rows.values()))["machine"]
    parts = [
        speed_table(rows),
        pairs_table(rows),
        training_table(),
        f"Batches of {SIZES[budget][1]}. {machine}.",
    ]
    return "\n\n".join(parts)


def speed_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, row in rows.items():
        work = 1e3 * row["cpu_s_per_image"]
        line = [
            name,
            f"{row['body'] / 1e6:.1f}",
            f"{row['params'] / 1e6:.1f}",
            f"{row['gmacs']:.2f}",
            f"{row['images_per_s']:.2f}",
            f"{row['low']:.2f} - {row['high']:.2f}",
            f"{work:.1f}",
            f"{2e3 * row['gmacs'] / work:.0f}",
            f"{row['weights_mib']:.0f}",
            f"{row['pass_mib']:.0f}",
            row["n"],
        ]
        lines.append(line)
    heads = [
        "network",
        "M parameters without head",
        "with",
        "GMACs",
        "images/s",
        "quartiles",
        "processor, ms an image",
        "GFLOP in its second",
        "weights, MiB",
        "a pass, MiB",
        "n",
    ]
    return common.table(heads, lines)


def pairs_table(rows: dict[str, dict[str, Any]]) -> str:
    """A Mixer beside what the paper compares it with, its claim and ours."""
    lines = []
    for one, other, data in map(str.split, PAIRS.split(";")):
        paper = {row["model"]: row for row in published() if row["data"] == data}
        ratio = float(paper[one]["images_per_s"]) / float(paper[other]["images_per_s"])
        speeds = ["-", "-"]
        if {one, other} <= rows.keys():
            a = rows[one]
            b = rows[other]
            quotients = (
                a["images_per_s"] / b["images_per_s"],
                b["cpu_s_per_image"] / a["cpu_s_per_image"],
            )
            speeds = [f"{quotient:.2f}" for quotient in quotients]
        work = counted(other)["gmacs"] / counted(one)["gmacs"]
        claims = [data, paper[one]["top1"], paper[other]["top1"], f"{ratio:.2f}"]
        lines.append([one, other, *claims, f"{work:.2f}", *speeds])
    heads = [
        "Mixer",
        "rival",
        "trained on",
        "top-1",
        "rival's",
        "faster: paper",
        "by MACs",
        "here",
        "of processor",
    ]
    return common.table(heads, lines)


def drawn(results: common.Results, budget: str) -> None:
    with common.picture(results.folder / "speed.svg", width=5.2) as axes:
        for name, row in rows_of(results, budget).items():
            kind = name.partition("-")[0].replace("BiT", "ResNet")
            axes.loglog(
                row["gmacs"], row["images_per_s"], "o", color=common.COLOURS[kind]
            )
            side = (
                {"xytext": (-4, 4), "ha": "right"}
                if kind == "Mixer"
                else {"xytext": (4, -7)}
            )
            axes.annotate(
                name,
                (row["gmacs"], row["images_per_s"]),
                textcoords="offset points",
                size=6,
                **side,
            )
        axes.margins(0.13)
        axes.set(
            xlabel="GMACs for an image",
            ylabel="images per second",
            title="Speed against arithmetic",
        )


if __name__ == "__main__":
    main()
