"""Every block of the README is executed (training is cut short), and its numbers are
compared with the code.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlp_mixer import open_dataset
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


SHORT = {
    "train": ["--set", "train.epochs=0.5"],
    "finetune": ["--set", "train.steps=3", "--set", "train.epochs=1"],
}
"""Options that keep the README's training to seconds."""


def run_lines(block: str) -> None:
    """Run the commands of a block, with training cut short."""
    for line in filter(None, block.splitlines()):
        program, *arguments = shlex.split(line, comments=True)
        assert program == "mlp-mixer"
        if arguments[0] == "serve":
            serve_and_ask(arguments)
        else:
            quick = SHORT.get(arguments[0], [])
            if "--minutes" in arguments:
                place = arguments.index("--minutes")
                del arguments[place : place + 2]
            assert run([*expand(arguments), *quick]) == 0, line


def serve_and_ask(arguments: list[str]) -> None:
    """Start the server on a free port, ask for its health, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlp_mixer", *arguments, "--port", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        ask_until_ready(f"http://127.0.0.1:{port}/readyz", server)
    finally:
        server.terminate()
    assert server.wait(timeout=60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def ask_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), opener.open(url, timeout=5) as answer:
            assert answer.status == 200
            return
        time.sleep(0.1)
    pytest.fail(f"no answer from {url}")


def write_photos(folder: Path, classes: int, each: int) -> None:
    """Pictures in one folder per class: digits, which are at hand."""
    images = open_dataset("digits").train
    for label in range(classes):
        place = folder / f"class {label}"
        place.mkdir(parents=True)
        for index in np.flatnonzero(images.labels == label)[:each]:
            picture = Image.fromarray(images.image(index)[:, :, 0]).convert("RGB")
            picture.resize((64, 64)).save(place / f"{index}.png")


def test_the_commands_and_the_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Callable[[str], Path]
) -> None:
    """Every block in the order of the page, with stand-ins for published files."""
    published("mlp-mixer-base-p16_3rdparty_64xb64_in1k")
    published("mixer_b16.goog_in21k")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    write_photos(tmp_path / "photos", classes=3, each=12)
    write_photos(tmp_path / "more", classes=1, each=3)
    monkeypatch.chdir(tmp_path)
    for language, block in re.findall(
        r"^```(bash|python)\n(.*?)^```$", README, flags=re.M | re.S
    ):
        if language == "bash":
            run_lines(block)
        else:
            short = block.replace("epochs=4", "epochs=0.5")
            exec(compile(short, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
    for name in ("runs/photos/report.html", "answers.csv", "why.png", "mixer.onnx"):
        assert (tmp_path / name).is_file(), name
    assert list((tmp_path / "checked").glob("*.html"))


def test_no_command_of_the_readme_hides_from_the_test() -> None:
    """The test runs fenced blocks only, so no command may stand in an indented one."""
    indented = re.findall(r"^    mlp-mixer .*$", README, flags=re.M)
    assert not indented
    assert README.count("```bash") >= 3


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


def test_no_line_installs_a_strangers_package() -> None:
    """The name on the package index is somebody else's: install from the checkout."""
    stranger = re.compile(r"install\b.*\bmlp[-_]mixer(?!-pytorch)|mlp-mixer\[")
    files = [ROOT / "README.md", ROOT / "Dockerfile", *ROOT.glob("docs/**/*.md")]
    files += [*ROOT.glob("src/**/*.py"), *ROOT.glob("examples/**/*.py")]
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if stranger.search(line)
    ]
    assert not lines
