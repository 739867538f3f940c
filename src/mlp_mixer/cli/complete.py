"""Names that a shell offers on the Tab key. Nothing here loads torch."""

from __future__ import annotations

# Written out, because the table of variants needs torch, which takes seconds to load.
# A test compares the names with those that exist.
MODELS = """
    mixer_s32 mixer_s16 mixer_s8 mixer_b32 mixer_b16 mixer_l32 mixer_l16 mixer_h14
    mixer_pico2 mixer_pico7 mixer_micro4 mixer_nano4 mixer_nano2 mixer_mini4
    mixer_tiny4 mixer_tiny2
    untied_s32 grouped_s32 views_s32 pyramid_s16
    untied_nano4 grouped_nano4 views_nano4 pyramid_nano4
    gmixer_12 gmixer_24
    resmlp_12 resmlp_24 resmlp_36 resmlp_big_24
    gmlp_ti16 gmlp_s16 gmlp_b16
"""


def recipes(incomplete: str) -> list[str]:
    """Return the recipes that begin so.

    Args:
        incomplete: What was typed. If no recipe begins so, the shell offers files.
    """
    from ..recipes import list_recipes

    return [name for name in list_recipes() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Return the architectures that begin so.

    Args:
        incomplete: What was typed.
    """
    return [name for name in MODELS.split() if name.startswith(incomplete)]


def weights(incomplete: str) -> list[str]:
    """Return the names of bundled and published weights that begin so.

    Args:
        incomplete: What was typed. Before anything is typed the shell offers files,
            which are meant more often.
    """
    from ..weights import list_models

    if not incomplete:
        return []
    names = list_models(weights=True)
    return [name for name in names if name.startswith(incomplete)]
