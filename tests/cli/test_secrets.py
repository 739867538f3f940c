"""A signed address leaves its key nowhere: no file of a run, no output, no error.

Everything that a run writes is searched, so a new file is searched too.
"""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlp_mixer import create_model, load, save, web
from mlp_mixer.cli import run
from mlp_mixer.errors import UserError, without_secrets

TOKEN = "S3CRET"
QUICK = ["--set", "train.steps=2", "--set", "train.device=cpu"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a checkpoint on a server of this machine."""
    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = tmp_path / "site"
    site.mkdir()
    model = create_model("mixer_pico2", in_channels=1, image_size=8, num_classes=10)
    save(site / "w.safetensors", model)
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/w.safetensors"
        server.shutdown()
        thread.join()


def files_with_the_token(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if TOKEN in path.name or (
            path.is_file() and TOKEN.encode() in path.read_bytes()
        ):
            found.append(str(path.relative_to(folder)))
    return found


def test_a_token_is_in_no_file_of_a_run_and_in_no_output(
    address: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signed = f"{address}?X-Amz-Signature={TOKEN}&x=1#{TOKEN}"
    out = tmp_path / "run"
    command = ["finetune", signed, "--data", "digits", "--out", str(out), *QUICK]
    monkeypatch.setattr("sys.argv", ["mlp-mixer", *command])
    assert run(command) == 0
    assert run(["report", str(out)]) == 0
    assert run(["evaluate", signed, "--data", "digits", "--json"]) == 0
    assert run([*command, "--resume"]) == 0
    told = capsys.readouterr()
    assert TOKEN not in told.out + told.err
    assert files_with_the_token(tmp_path) == []
    # The search finds what there is, and the address itself is kept.
    assert "X-Amz-Signature" not in (out / "config.json").read_text()
    settings = json.loads((out / "config.json").read_text())
    assert settings["config"]["model"]["init"] == address
    assert "w.safetensors" in settings["environment"]["command"]
    assert load(out).provenance["model"].startswith("w.safetensors")


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "http://127.0.0.1:9/w.safetensors?k={}", "x.png"],
        ["predict", "http://me:{}@127.0.0.1:9/w.safetensors", "x.png"],
        ["predict", "s3://k:{}@bucket/w.safetensors#{}", "x.png"],
        ["train", "digits", "--data", "shards:http://127.0.0.1:9/index.json?k={}"],
        ["train", "digits", "--data", "shards:http://me:{}@127.0.0.1:9/index.json"],
        ["serve", "http://127.0.0.1:9/none.npz?sig={}"],
    ],
    ids=" ".join,
)
def test_a_token_is_in_no_error(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It tries again at once: what is said at the end is the same.
    monkeypatch.setattr(web, "WAITS", (0.0,) * len(web.WAITS))
    given = [argument.format(TOKEN, TOKEN) for argument in arguments]
    if given[0] == "train":
        given += ["--out", str(tmp_path / "out")]
    assert run(given) == 2
    told = capsys.readouterr()
    assert "error: " in told.err
    assert TOKEN not in told.out + told.err
    assert files_with_the_token(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:S3CRET@h/a.b?x=S3CRET#S3CRET", "https://h/a.b"),
        (
            "cannot read https://h/a?k=S3CRET: why; try",
            "cannot read https://h/a: why; try",
        ),
        ("'s3://b/c?S3CRET', 'gs://d'", "'s3://b/c', 'gs://d'"),
        ("shards:https://h/{0..3}.tar?S3CRET", "shards:https://h/{0..3}.tar"),
        ("HTTPS://A@S3CRET@H?S3CRET.", "HTTPS://H."),
        ("serving at http://127.0.0.1:8000/ (Ctrl-C)", None),
        ("a ? b # c @ d", None),
        ("folder:/home/me?x", None),
    ],
)
def test_addresses_lose_their_keys_and_other_text_stays(
    text: str, shown: str | None
) -> None:
    assert without_secrets(text) == (shown or text)
    assert str(UserError(text)) == (shown or text)
