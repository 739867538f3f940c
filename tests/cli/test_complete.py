"""The Tab key: what shells ask, and that the names written out are those that exist."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlp_mixer.cli import complete
from mlp_mixer.models import variants
from mlp_mixer.recipes import list_recipes
from mlp_mixer.weights import list_models

ASK = """
import sys
from mlp_mixer.cli import run
try:
    run([])
finally:
    print("torch" in sys.modules)
"""


def test_the_names_are_those_there_are() -> None:
    assert complete.recipes("") == list_recipes()
    assert complete.MODELS.split() == variants()
    assert complete.weights("mixer") == list_models(weights=True)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tr", ["train"]),
        ("train dig", ["digits"]),
        ("bench mixer_n", ["mixer_nano4", "mixer_nano2"]),
        ("evaluate mixer_l16.m", ["mixer_l16.mmpretrain_in1k"]),
        ("predict mixer_l16.m", ["mixer_l16.mmpretrain_in1k"]),
        ("evaluate runs/", []),
        ("evaluate ", []),
    ],
)
def test_what_bash_is_told(line: str, offered: list[str]) -> None:
    """Nothing means files; and torch, which takes seconds, is never loaded."""
    words = ["mlp-mixer", *line.split(" ")]
    environment = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    answer = subprocess.run(
        [sys.executable, "-c", ASK],
        env=os.environ | environment | {"_MLP_MIXER_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split() == [*offered, "False"], answer.stderr
