"""Every recipe of others beside its original: the tables of docs/training.md.

`MLP_MIXER_WRITE_TABLES=1 pytest THIS_FILE` writes them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlp_mixer.models.families import FAMILIES
from mlp_mixer.recipes import RECIPES, get_recipe

from .originals import GROUPS, Group
from .settings_in_words import SETTINGS

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
BEGIN = "<!-- originals -->\n"
END = "<!-- end of originals -->\n"
OWN = (
    "digits", "fashion_mnist", "cifar10", "cifar100", "cifar110", "keras_cifar100", "photos",
    "pretrain",
)  # fmt: skip
ROWS = [(group, setting) for group in GROUPS for setting in group.values]


def original(group: Group, setting: str) -> dict[str, str]:
    """What the source says for each recipe of a group."""
    text = group.values[setting].text
    return dict.fromkeys(group.recipes, text) if isinstance(text, str) else text


def ours(group: Group, setting: str) -> dict[str, str]:
    """What each recipe of a group says itself."""
    read = ({**SETTINGS, **group.extra})[setting]
    return {name: read(get_recipe(name)) for name in group.recipes}


def merged(values: dict[str, str]) -> str:
    """One text for all recipes, or each value with its recipes."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(f"`{name}`")
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{value} ({', '.join(own)})" for value, own in names.items())


def table(group: Group) -> str:
    """The table of a group in Markdown."""
    lines = ["| setting | original | here | source |", "|---|---|---|---|"]
    for setting, value in group.values.items():
        said = original(group, setting)
        here = ours(group, setting)
        cell = "the same"
        if said != here:
            cell = f"{merged(here)}: {value.here}"
        source = value.source or group.source
        lines.append(f"| {setting} | {merged(said)} | {cell} | {source} |")
    names = ", ".join(f"`{name}`" for name in group.recipes)
    return f"**{group.title}** ({names})\n\n" + "\n".join(lines) + "\n"


def tables() -> str:
    """All tables, as they stand between BEGIN and END in docs/training.md."""
    return "\n" + "\n".join(map(table, GROUPS)) + "\n"


@pytest.mark.parametrize(
    ("group", "setting"), ROWS, ids=[f"{g.recipes[0]}-{s}" for g, s in ROWS]
)
def test_a_recipe_has_its_original_s_values_or_says_why_not(
    group: Group, setting: str
) -> None:
    said = original(group, setting)
    assert said.keys() == set(group.recipes)
    if group.values[setting].here:
        assert ours(group, setting) != said, "say nothing where they are equal"
    else:
        assert ours(group, setting) == said


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.recipes[0])
def test_a_group_states_every_setting(group: Group) -> None:
    assert set({**SETTINGS, **group.extra}) == set(group.values)


def test_every_recipe_of_others_has_a_group() -> None:
    grouped = [name for group in GROUPS for name in group.recipes]
    others = [name for name in RECIPES if not name.startswith(OWN)]
    assert sorted(grouped) == sorted(others)


def test_the_page_holds_these_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    written, after = rest.split(END)
    if os.environ.get("MLP_MIXER_WRITE_TABLES"):
        PAGE.write_text(before + BEGIN + tables() + END + after, encoding="utf-8")
    else:
        assert written == tables()


@pytest.mark.parametrize("family", ["mixer", "resmlp", "gmlp", "gmixer"])
def test_every_published_size_has_a_recipe(family: str) -> None:
    """Those for 224 pixels; the small Mixers are this project's own."""
    _, variants = FAMILIES[family]
    published = {name for name, row in variants.items() if row.image_size == (224, 224)}
    trained = {get_recipe(name).model.name for name in RECIPES}
    assert published <= trained
