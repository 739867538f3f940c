"""docs/deploy.md is executed: commands, requests to a live server, configuration files.

What cannot run here (`NOT_RUN`, and the files of nginx, systemd and Kubernetes) is
compared with the code.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlp_mixer import UserError, create_model, save
from mlp_mixer.cli import run
from mlp_mixer.exporting.web import find_runtime
from mlp_mixer.serve import Limits

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PORT = "8000"  # on the page
SECONDS = 600  # until a server that does not answer fails the test

NOT_RUN = {
    "pip install": "the tests run in an environment that has the package already",
    "docker": "it needs a daemon and the network",
    "tritonserver": "it is NVIDIA's; tests/unit/exporting/test_triton.py reads its files",
}
SHORT = {"benchmarks/serve.py": "--clients 2 --seconds 1 --rounds 1"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)


def block(language: str) -> str:
    (only,) = blocks(language)
    return only


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    languages = set(re.findall(r"^```(\w*)$", PAGE, flags=re.M)) - {""}
    assert languages == {"bash", "python", "nginx", "ini", "yaml"}
    indented = re.findall(r"^    (?:mlp-mixer|curl|docker) .*$", PAGE, flags=re.M)
    assert not indented


class Shell:
    """Runs the commands of the page in a folder, with a server between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = PORT
        self.environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        self.environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._add_program("mlp-mixer", f"{sys.executable} -m mlp_mixer")
        self._add_program("python", sys.executable)
        self.server: subprocess.Popen[str] | None = None

    def _add_program(self, name: str, command: str) -> None:
        program = self.folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)

    def here(self, text: str) -> str:
        """Return a text of the page with the port of the server that runs."""
        return text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self.port}")

    def run(self, line: str) -> None:
        """Run one line of the page."""
        words = shlex.split(line)
        if line.startswith("mlp-mixer serve"):
            self.serve(words)
        elif words[0] == "mlp-mixer":
            assert run(words[1:]) == 0, line
        elif words[0] == "curl":
            self.curl(line)
        else:
            for program, options in SHORT.items():
                if program in line:
                    line = f"{line} {options}"
            self.bash(line)

    def bash(self, line: str) -> str:
        command = ["bash", "-euo", "pipefail", "-c", self.here(line)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, line
        return done.stdout

    def curl(self, line: str) -> None:
        """Send a request, which is answered with as many classes as it asks for."""
        answer = json.loads(self.bash(line))
        assert len(answer["predictions"]) == max(1, line.count("-F file"))
        asked = re.search(r"top=(\d+)", line)
        for prediction in answer["predictions"]:
            assert len(prediction["top"]) == (int(asked[1]) if asked else 5)

    def serve(self, words: list[str]) -> None:
        """Start the server on a free port, whatever the page says."""
        assert words[-2:] == ["--port", PORT]
        command = [sys.executable, "-m", "mlp_mixer", *words[1:-1], "0"]
        self.server = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout
        said = self.server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        self.port = found[1]
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError), self.get("/readyz") as answer:
                assert answer.status == 200
                return
            time.sleep(0.1)
        pytest.fail("the server does not answer")

    def get(self, address: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(f"http://127.0.0.1:{self.port}{address}", timeout=SECONDS)

    def stop(self) -> None:
        """End the server as systemd and Docker do."""
        if self.server is None:
            return
        self.server.terminate()
        assert self.server.wait(SECONDS) == 128 + signal.SIGTERM
        assert self.server.stdout
        self.server.stdout.close()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A folder with all that the page takes for granted."""
    model = create_model("mixer_pico2", in_channels=3, image_size=16, num_classes=10)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    save(tmp_path / "runs" / "mine" / "best.safetensors", model)
    (tmp_path / "photos" / "below").mkdir(parents=True)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    for number, name in enumerate(
        ("photo.jpg", "a.jpg", "b.jpg", "photos/1.jpg", "photos/below/2.jpg")
    ):
        colour = (40 * number, 90, 200 - 40 * number)
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Shell(tmp_path)
    yield running
    running.stop()


def is_run(line: str) -> bool:
    if "--to web" in line and not has_web_runtime():
        return False
    return not line.startswith(tuple(NOT_RUN))


def has_web_runtime() -> bool:
    """Whether onnxruntime-web is in the cache: a test does not download 32 MiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLP_MIXER_OFFLINE", "1")
        with contextlib.suppress(UserError):
            return bool(find_runtime())
    return False


def test_the_commands_and_requests_of_the_page_run(shell: Shell) -> None:
    for language, text in re.findall(
        r"^```(bash|python)\n(.*?)^```$", PAGE, flags=re.M | re.S
    ):
        if language == "python":
            exec(compile(shell.here(text), "deploy.md", "exec"), {})
            continue
        for line in filter(is_run, text.splitlines()):
            shell.run(line)
    made = ("answers.csv", "answers.parquet", "answers.jsonl", "mixer.onnx")
    joined = (shell.folder / "joined.csv").read_text().splitlines()
    assert [len(line.split(",")) for line in joined] == [14] * 3
    assert (shell.folder / "every.csv").exists()
    for name in (*made, "mixer-int8.onnx", "mixer.xml", "mixer.pt2"):
        assert (shell.folder / name).exists(), name
    answers = (shell.folder / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 2
    for address in re.findall(r"^\| `GET (/[\w./]*)` \|", PAGE, flags=re.M):
        with shell.get(address) as answer:
            assert answer.status == 200, address
    with shell.get("/openapi.json") as answer:
        assert "/predict" in json.load(answer)["paths"]


def test_what_is_not_run_is_on_the_page() -> None:
    """An entry that nothing needs any more would hide a later line."""
    lines = "\n".join(blocks("bash")).splitlines()
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in lines), start


def test_the_line_for_docker_fits_the_dockerfile() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("docker run"))
    assert f"-p {PORT}:{exposed_port()}" in line
    assert ":/weights:ro" in line
    assert 'CMD ["/weights"]' in DOCKERFILE


def exposed_port() -> int:
    found = re.search(r"^EXPOSE (\d+)$", DOCKERFILE, flags=re.M)
    assert found
    assert f'"--port", "{found[1]}"' in DOCKERFILE
    return int(found[1])


def test_the_file_for_nginx_is_whole_and_fits_the_limits() -> None:
    """nginx itself would want its certificates."""
    text = re.sub(r"#.*", "", block("nginx"))
    assert text.count("{") == text.count("}")
    # Every directive ends: what stands between ends is empty or begins with a word.
    for statement in re.split(r"[;{}]", text):
        assert re.fullmatch(r"\s*(?:[a-z_]+(?:\s[^;{}\n]+)?)?\s*", statement), statement
    directives = dict(re.findall(r"([a-z_]+)\s+([^;{}]+);", text))
    assert directives["client_max_body_size"] == f"{Limits().max_bytes >> 20}m"
    assert int(directives["proxy_read_timeout"].removesuffix("s")) > Limits().seconds
    assert f"server 127.0.0.1:{PORT};" in text


def test_the_unit_for_systemd_starts_the_server(tmp_path: Path) -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(block("ini"))
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "mlp-mixer"
    assert arguments == ["serve", "/srv/weights"]
    assert set(unit["Service"]) == {"ExecStart", "Restart", "MemoryMax"}
    if shutil.which("systemd-analyze") is None:
        return
    file = tmp_path / "mixer.service"
    file.write_text(block("ini").replace(program, "/bin/true"))
    command = ["systemd-analyze", "verify", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_manifest_for_kubernetes_fits_the_container() -> None:
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load(block("yaml"))
    pod = manifest["spec"]["template"]["spec"]
    assert manifest["spec"]["selector"]["matchLabels"] == {"app": "mixer"}
    assert manifest["spec"]["template"]["metadata"]["labels"] == {"app": "mixer"}
    assert pod["terminationGracePeriodSeconds"] > Limits().seconds
    (container,) = pod["containers"]
    port = exposed_port()
    assert container["ports"] == [{"containerPort": port}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port}
    (mount,) = container["volumeMounts"]
    assert f'CMD ["{mount["mountPath"]}"]' in DOCKERFILE
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    (variable,) = container["env"]
    assert variable["value"] == container["resources"]["requests"]["cpu"]
