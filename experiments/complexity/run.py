"""Cost against the number of patches: a Mixer's is linear at a fixed D_S, a ViT's has a
part that is quadratic.

    python experiments/complexity/run.py --budget smoke|cpu|gpu|full [--out FOLDER]

Equal width, blocks and patches; only the image grows. Counted: multiply-accumulates,
and the bytes that autograd keeps for one image in training; of ViT also with attention
as plain products (torch's fused kernel keeps no S x S table, but multiplies as much).
Measured: the time of one image (of a processor its own seconds, not the clock's), all
sizes and networks taking turns. The exponents are slopes of straight lines in
logarithms, with their standard errors, through all points and through the upper half.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import competitors

from mlp_mixer.bench.measure import interleave

PATCH, WIDTH, DEPTH, TOKENS = (
    4,
    192,
    2,
    96,
)  # pixels; C and D_S of half of it, as in Table 1
#        patches on a side, rounds of one warm and two counted passes
SIZES = {
    "smoke": ((4, 8, 16), 2),
    "cpu": ((8, 11, 16, 23, 32, 45, 64), 5),
    "gpu": ((8, 11, 16, 23, 32, 45, 64, 90, 128), 50),
    "full": ((8, 11, 16, 23, 32, 45, 64, 90, 128), 50),
}
STYLES = {
    "Mixer": ("Mixer", "-"),
    "ViT": ("ViT", "-"),
    "ViT, plain attention": ("ViT", ":"),
}
COLUMNS = {
    "MMACs": "multiply-accumulates, millions",
    "ms": "one image, ms",
    "kept_mib": "kept for backward, MiB",
}


def built(name: str, grid: int) -> nn.Module:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": WIDTH, "depth": DEPTH, "patch": PATCH}
    if name == "Mixer":
        return competitors.mixer(grid * PATCH, 3, 10, tokens_mlp_dim=TOKENS, **settings)
    timm.layers.set_fused_attn("plain" not in name)
    model = competitors.vit(grid * PATCH, 3, 10, **settings)
    timm.layers.set_fused_attn(True)
    return model


def kept(model: nn.Module, image: torch.Tensor) -> int:
    """Bytes that the backward pass needs of one image, weights left out; views of one
    storage count once.
    """
    storages: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = (
            tensor.untyped_storage().nbytes()
        )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = model.train()(
            image
        )  # held: what it needs stays, and no address is given twice
    del answer
    return sum(size for place, size in storages.items() if place not in weights)


def measured(choice: argparse.Namespace) -> dict[str, dict[str, Any]]:
    grids, rounds = SIZES[choice.budget]
    device = torch.device(choice.device)
    rows = {}
    calls = {}
    for grid in grids:
        image = torch.randn(1, 3, grid * PATCH, grid * PATCH, device=device)
        for name in STYLES:
            model = built(name, grid).to(device)
            key = f"{name} {grid**2}"
            mmacs = competitors.mmacs(model, grid * PATCH, 3)
            rows[key] = {
                "network": name,
                "S": grid**2,
                "MMACs": mmacs,
                "kept_mib": kept(model, image) / 2**20,
            }
            calls[key] = torch.inference_mode()(partial(model.eval(), image))
    measured_times, failures = interleave(calls, rounds, device)
    for error in failures.values():
        raise error
    for key, times in measured_times.items():
        wall, cpu = (
            1e3 * float(np.median(seconds)) for seconds in (times.wall, times.cpu)
        )
        rows[key] |= {"ms": wall if device.type == "cuda" else cpu, "wall_ms": wall}
    return rows


def exponent(patches: np.ndarray, values: np.ndarray) -> str:
    x = np.log(patches)
    y = np.log(values)
    slope, offset = np.polyfit(x, y, 1)
    error = np.sqrt(
        np.sum((y - slope * x - offset) ** 2)
        / max(1, len(x) - 2)
        / np.sum((x - x.mean()) ** 2)
    )
    return f"{slope:.2f} ± {error:.2f}"


def main() -> None:
    choice = common.arguments(__doc__, data=False)
    results = common.Results(choice, __file__)
    grids, _ = SIZES[choice.budget]
    names = [f"{name} {grid**2}" for grid in grids for name in STYLES]
    done = measured(choice) if set(names) - set(results.rows) else {}
    for name in names:
        results.get(name, partial(done.get, name))
    drawn(results, choice.budget)
    common.write_up(choice, __file__, told(results, choice.budget))


def columns_of(results: common.Results, budget: str) -> dict[tuple[str, str], Any]:
    """By network and column: an array over the numbers of patches."""
    grids, _ = SIZES[budget]
    return {
        (name, key): np.array([results.rows[f"{name} {g**2}"][key] for g in grids])
        for name in STYLES
        for key in COLUMNS
    }


def told(results: common.Results, budget: str) -> str:
    """The exponents and what they are drawn through."""
    grids, rounds = SIZES[budget]
    patches = np.array([grid**2 for grid in grids])
    values = columns_of(results, budget)
    half = len(grids) // 2
    fits = [
        [
            exponent(patches[k:], values[name, key][k:])
            for key in COLUMNS
            for k in (0, half)
        ]
        for name in STYLES
    ]
    heads = [
        f"{what}: {part}"
        for what in ("MACs", "time", "kept")
        for part in ("all", f"from {patches[half]}")
    ]
    text = common.table(
        ["exponent of S", *heads],
        [[name, *row] for name, row in zip(STYLES, fits, strict=True)],
    )
    cells = [
        [S, *(f"{values[name, key][i]:.4g}" for key in COLUMNS for name in STYLES)]
        for i, S in enumerate(patches)
    ]
    heads = [f"{name}: {unit}" for unit in ("MMACs", "ms", "MiB") for name in STYLES]
    machine = results.rows[f"{next(iter(STYLES))} {patches[0]}"]["machine"]
    return (
        f"{text}\n\n{common.table(['S', *heads], cells)}\n\n"
        f"Medians of {2 * rounds} passes in {rounds} turns. {machine}."
    )


def drawn(results: common.Results, budget: str) -> None:
    patches = [grid**2 for grid in SIZES[budget][0]]
    values = columns_of(results, budget)
    with common.picture(results.folder / "complexity.svg", 3, width=3.2) as axes:
        for panel, (key, title) in zip(axes, COLUMNS.items(), strict=True):
            for name, (colour, line) in STYLES.items():
                panel.loglog(
                    patches,
                    values[name, key],
                    line,
                    marker="o",
                    color=common.COLOURS[colour],
                    label=name,
                )
            panel.set(xlabel="patches", title=title[0].upper() + title[1:])
        axes[0].legend()


if __name__ == "__main__":
    main()
