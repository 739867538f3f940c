"""What is said of a recipe is true: measured numbers in its text, its name in its command."""

from __future__ import annotations

import inspect

import pytest

from mlp_mixer import list_recipes
from mlp_mixer.cli import run
from mlp_mixer.recipes import MEASURED, RECIPES, claim, get_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_called_as_its_text_calls_it(name: str) -> None:
    text = inspect.getdoc(RECIPES[name]) or ""
    assert get_recipe(name).recipe == name
    assert f"mlp-mixer train {name} " in text or f"--recipe {name}" in text


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("ep")])
def test_a_name_with_epochs_is_true(name: str) -> None:
    epochs = int(name.rpartition("_")[2].removesuffix("ep"))
    assert get_recipe(name).train.epochs == epochs


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_measured_is_in_the_recipes_text(name: str) -> None:
    row = MEASURED[name]
    text = inspect.getdoc(RECIPES[name]) or ""
    assert f"{row.top1:.1f}" in text or f"{row.top1}" in text
    assert f"{row.n:,}" in text.replace("\n", " ") or f"n =\n{row.n:,}" in text
    assert (row.sd is None) == (row.runs == 1)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in MEASURED])
def test_what_was_not_measured_says_so(name: str) -> None:
    text = " ".join((inspect.getdoc(RECIPES[name]) or "").lower().split())
    assert "not run" in text or "aim is" in text


def test_the_list_separates_the_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes"]) == 0
    measured, claimed = capsys.readouterr().out.split("Not run in full here")
    for name in RECIPES:
        part = measured if name in MEASURED else claimed
        assert f"\n{name} " in part, name
    assert "83.5 ± 0.5 % (3 runs, n = 10,000)" in measured


def test_recipes_are_found_by_pattern() -> None:
    assert list_recipes("digits") == ["digits"]
    assert list_recipes() == list(RECIPES)
    assert list_recipes("nothing*") == []
    assert claim("digits").startswith("Reach 99.4 %")
