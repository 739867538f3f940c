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

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


def test_the_commands_and_the_python_run(
    tmp_path: Path, run_page: Callable[[str, str], None]
) -> None:
    run_page(README, "README.md")
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
    for name in ("runs/photos/report.html", "answers.csv", "why.png", "mixer.onnx"):
        assert (tmp_path / name).is_file(), name
    assert list((tmp_path / "checked").glob("*.html"))


def test_no_command_of_the_readme_hides_from_the_test() -> None:
    """The test runs fenced blocks only, so no command may stand in an indented one."""
    indented = re.findall(r"^    mlp-mixer .*$", README, flags=re.M)
    assert not indented
    assert README.count("```bash") >= 3


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


def test_no_line_installs_a_strangers_package() -> None:
    """On the package index mlp-mixer is somebody else's; ours is mlp-mixer-toolkit."""
    others = r"mlp[-_]mixer(?![-_](?:pytorch|toolkit))"
    # `uninstall` is what one does with it.
    stranger = re.compile(rf"\binstall\b.*\b{others}|mlp-mixer\[")
    files = [ROOT / "README.md", ROOT / "Dockerfile", *ROOT.glob("docs/**/*.md")]
    files += [ROOT / "SECURITY.md", *ROOT.glob(".github/**/*.yml")]
    files += [*ROOT.glob("docs/**/*.ipynb"), *ROOT.glob("experiments/**/*.md")]
    files += [*ROOT.glob("src/**/*.py"), *ROOT.glob("examples/**/*.py")]
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if stranger.search(line)
    ]
    assert not lines
