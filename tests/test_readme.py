"""Every block of the README is executed (training is cut short), and its numbers are
compared with the code.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlp_mixer.cli import run
from mlp_mixer.models import VARIANTS, cost
from mlp_mixer.weights.lineages.tables import LINEAGES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def expand(arguments: list[str]) -> list[str]:
    """What a shell makes of `*`."""
    return [
        path
        for argument in arguments
        for path in (
            sorted(map(str, Path().glob(argument))) if "*" in argument else [argument]
        )
    ]


def test_the_commands_and_the_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Callable[[str], Path]
) -> None:
    """With a stand-in for the published file."""
    published("mlp-mixer-base-p16_3rdparty_64xb64_in1k")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(lines) >= 5
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "mlp-mixer"
        quick = ["--set", "train.epochs=0.5"] if arguments[0] == "train" else []
        assert run([*expand(arguments), *quick]) == 0, line
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()


def test_the_python_of_the_manual_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(
        "python", (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    ):
        exec(compile(block, "training.md", "exec"), {})
    assert (tmp_path / "runs" / "mine" / "best.safetensors").is_file()


def test_the_page_about_weights_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Callable[[str], Path]
) -> None:
    """With stand-ins for the published files; what it says of the lineages is compared
    with the tables.
    """
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "demo").symlink_to(ROOT / "demo")
    published("mlp-mixer-base-p16_3rdparty_64xb64_in1k")
    published("mixer_b16_224.goog_in21k_ft_in1k")
    shutil.copy(published("mixer_l16.goog_in1k"), "Mixer-B_16.npz")
    for line in "".join(blocks("bash", page)).splitlines():
        assert run(shlex.split(line)[1:]) == 0, line
    for block in blocks("python", page):
        exec(compile(block, "weights.md", "exec"), {})
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (tanh|erf) \| (1e-\d) \| (yes|no) \| ([\w, ()]+) \|$",
        page,
        flags=re.M,
    )
    assert {name for name, *_ in rows} == {*LINEAGES, "huggingface"}
    for name, gelu, eps, final_norm, kinds in rows:
        lineage = LINEAGES.get(name, LINEAGES["timm"])
        assert (gelu, float(eps), final_norm == "yes") == (
            lineage.gelu,
            lineage.norm_eps,
            lineage.final_norm,
        ), name
        assert name == "huggingface" or lineage.suffixes[0].lstrip(".") in kinds


def test_the_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("")), flags=re.M)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_the_table_of_models_is_true() -> None:
    rows = re.findall(
        r"^\| `(mixer_\w+)` \| (\d+) \| (\d+) \| ([\d,]+) \| ([\d.]+) \|$",
        README,
        flags=re.M,
    )
    assert [name for name, *_ in rows] == list(VARIANTS)
    for name, image, patch, params, gmacs in rows:
        counted = cost(name)
        config = VARIANTS[name]
        assert (int(image), int(patch)) == (config.image_size[0], config.patch_size)
        assert params == f"{counted.params:,}"
        assert gmacs == f"{counted.gmacs:.3f}"


@pytest.mark.parametrize(
    "page",
    sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]),
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
