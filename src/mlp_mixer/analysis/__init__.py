"""Draw what a trained Mixer has learned, and why it answers as it does."""

from .token_units import (
    draw_units,
    mean_frequency,
    order_units,
    to_jpeg,
    to_png,
    token_unit_pictures,
    visible,
)

__all__ = [
    "draw_units",
    "mean_frequency",
    "order_units",
    "to_jpeg",
    "to_png",
    "token_unit_pictures",
    "visible",
]
