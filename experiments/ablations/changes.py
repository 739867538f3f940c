"""What is changed, one at a time; `sized` keeps the paper's proportions."""

from __future__ import annotations

import math
from typing import Any

Rates = dict[str, float]
RATES = {
    "AdamW": (4e-3, 8e-3, 1.6e-2),
    "SGD": (0.05, 0.15, 0.5),
    "Lion": (5e-4, 1e-3, 2e-3),
    "Muon": (4e-3, 8e-3, 1.6e-2),
}


def changes(C: int, L: int, S: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is changed: the group it belongs to, and its fields, of the network or of
    the training.
    """
    tied = {"name": "grouped_s32"}
    wide, deep = (round(C * math.sqrt(factor) / 4) * 4 for factor in (2, 0.5))
    return {
        "untied, one token MLP a channel": (
            "token mixing",
            {"name": "untied_s32", "token_mlps": C},
        ),
        "groups of 2 channels": ("token mixing", tied | {"group": 2}),
        "groups of 4 channels": ("token mixing", tied | {"group": 4}),
        "4 learned views": ("token mixing", {"name": "views_s32", "group": 4}),
        f"pyramid {S}, {S // 2}, {S // 4} tokens": (
            "token mixing",
            {
                "name": "pyramid_s16",
                "pyramid": [S] * (L // 2 - 1)
                + [S // 2] * (L // 4)
                + [S // 4] * (L // 4 + 1),
            },
        ),
        f"D_S {C // 8} (a quarter)": ("widths", {"tokens_mlp_dim": C // 8}),
        f"D_S {C * 2} (fourfold)": ("widths", {"tokens_mlp_dim": C * 2}),
        f"D_C {C} (a quarter)": ("widths", {"channels_mlp_dim": C}),
        f"D_C {C * 16} (fourfold)": ("widths", {"channels_mlp_dim": C * 16}),
        f"wider, {L // 2} x C {wide}": ("widths", sized(wide) | {"num_blocks": L // 2}),
        f"deeper, {L * 2} x C {deep}": ("widths", sized(deep) | {"num_blocks": L * 2}),
        "GELU by tanh": ("details", {"gelu": "tanh"}),
        "no final norm": ("details", {"final_norm": False}),
        "stochastic depth 0.1, paper": ("details", {"drop_path": 0.1}),
        "stochastic depth 0.1, timm": (
            "details",
            {"drop_path": 0.1, "drop_path_rule": "timm"},
        ),
        "stochastic depth 0.3, paper": ("details", {"drop_path": 0.3}),
        "stochastic depth 0.3, timm": (
            "details",
            {"drop_path": 0.3, "drop_path_rule": "timm"},
        ),
        "SGD, momentum 0.9": ("training", {"optimizer": "SGD"}),
        "Lion": ("training", {"optimizer": "Lion"}),
        "Muon": ("training", {"optimizer": "Muon"}),
        "SAM, rho 0.05": ("training", {"rho": 0.05}),
        "SAM, rho 0.1": ("training", {"rho": 0.1}),
        "twice the steps, the cost of SAM": ("training", {"longer": 2}),
    }


def sized(width: int) -> dict[str, Any]:
    return {
        "hidden_dim": width,
        "tokens_mlp_dim": width // 2,
        "channels_mlp_dim": 4 * width,
    }
