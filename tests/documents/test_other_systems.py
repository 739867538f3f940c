"""The lines for Windows, which has no `make`: they do what the Makefile does."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

import pytest

from mlp_mixer.cli import run

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def windows_lines() -> list[str]:
    """The lines of the section's block, each argument as it would be written here."""
    page = (ROOT / "docs" / "howto" / "other_systems.md").read_text(encoding="utf-8")
    section = page.split("## Windows")[1].split("\n## ")[0]
    [block] = re.findall(r"^```text\n(.*?)^```$", section, flags=re.M | re.S)
    # PureWindowsPath reads both kinds of separators, as PowerShell does.
    return [
        " ".join(PureWindowsPath(word).as_posix() for word in line.split())
        for line in block.splitlines()
    ]


def test_the_environment_is_that_of_the_makefile() -> None:
    environment, install, *_ = windows_lines()
    assert re.fullmatch(r"py -3\.1[1-4] -m venv \.venv", environment)
    assert install == ".venv/Scripts/python -m pip install -c constraints.txt -e ."
    # Without the tests' own needs, which the section does not promise.
    assert "-c constraints.txt -e '.[dev]'" in MAKEFILE
    assert "-m venv $(VENV)" in MAKEFILE


def test_the_demo_is_that_of_the_makefile_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = MAKEFILE.split("demo: install\n")[1].split("\n\n")[0]
    verbs = re.findall(r"mlp-mixer (\w+)", recipe)
    shown = []
    for line in windows_lines()[2:]:
        program, *arguments = line.split()
        assert program == ".venv/Scripts/mlp-mixer"
        shown.append(arguments[0])
        short = ["--set", "train.epochs=0.5"] if arguments[0] == "train" else []
        assert run([*arguments, *short]) == 0, line
    assert shown == verbs
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()
