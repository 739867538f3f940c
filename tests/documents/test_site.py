"""The documentation site: it builds without a warning, and what its pages say runs.

```bash and ```python are executed, page by page. ```sh is for another machine: it begins
with what it needs, and its commands are only parsed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import mlp_mixer
from mlp_mixer.cli import app, run
from mlp_mixer.recipes import RECIPES

from .conftest import PHOTOS, write_photos

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = ("tutorials", "howto", "reference")
PAGES = sorted(
    [
        *(
            DOCS / f"{name}.md"
            for name in ("start", "which", "when_not", "faq", "cite")
        ),
        *(page for folder in FOLDERS for page in (DOCS / folder).glob("*.md")),
    ]
)
LANGUAGES = {"bash", "python", "sh", "text", "bibtex", "{eval-rst}", "{toctree}"}


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that a page's reader has, made once for all pages."""
    folder = tmp_path_factory.mktemp("reader")
    write_photos(folder / "photos", **PHOTOS)
    arguments = ["finetune", "--data", "folder:photos", "--out", "runs/mine"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*arguments, "--frozen"]) == 0
    return folder / "runs"


@pytest.fixture
def with_a_run(
    runs: Path, tmp_path: Path, run_page: Callable[[str, str], None]
) -> Path:
    """The folder of a page's reader, who has a run and a list of labels."""
    shutil.copytree(runs, tmp_path / "runs")
    lines = ["path,labels"]
    for picture in sorted((tmp_path / "photos").rglob("*.png")):
        label = picture.parent.name
        labels = label if label == "class 0" else f"{label};not zero"
        lines.append(f"{picture.relative_to(tmp_path).as_posix()},{labels}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run(
    page: Path, with_a_run: Path, run_page: Callable[[str, str], None]
) -> None:
    text = page.read_text(encoding="utf-8")
    if not re.search(r"^```(bash|python)$", text, flags=re.M):
        pytest.skip("no block to run on this page")
    run_page(text, page.name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^```(\S*)", text, flags=re.M)[::2]
    assert set(opened) <= LANGUAGES
    for block in re.findall(r"^```sh\n(.*?)^```$", text, flags=re.M | re.S):
        assert block.startswith("# needs "), "say what it needs"
        for line in block.replace("\\\n", " ").splitlines():
            parse(line)


def parse(line: str) -> None:
    """Parse a command of ours, as far as options and arguments go."""
    words = shlex.split(line, comments=True)
    if "mlp_mixer" in words:
        words = words[words.index("mlp_mixer") :]
    elif words[:1] != ["mlp-mixer"]:
        return
    command = typer.main.get_command(app).commands[words[1]]
    command.make_context(words[1], words[2:])


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strictly, with all links inside it; and no page asks another host for anything."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    out = tmp_path / "site"
    done = subprocess.run(
        [*command, "-b", "html", "-d", str(tmp_path / "trees"), str(DOCS), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(\w+://[^"]+)', text
        )
        assert not fetched, page
        for target in re.findall(r'href="([^"#:?]+\.html)', text):
            assert (page.parent / target).resolve().is_file(), (page.name, target)
    commands = (out / "generated" / "commands.html").read_text(encoding="utf-8")
    for verb in typer.main.get_command(app).commands:
        assert f"mlp-mixer {verb}" in commands
    recipes = (out / "generated" / "recipes.html").read_text(encoding="utf-8")
    assert all(f'id="{name.replace("_", "-")}"' in recipes for name in RECIPES)
    python = (out / "reference" / "python.html").read_text(encoding="utf-8")
    for name in set(mlp_mixer.__all__) - {"__version__"}:
        assert f'id="mlp_mixer.{name}"' in python, name
