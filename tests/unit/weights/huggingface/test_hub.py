"""Push and pull, against a hub of our own."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from mlp_mixer import UserError, from_pretrained, load, push_to_hub, save_pretrained

from .local_hub import TOKEN, Hub
from .samples import THREE, TRAINED, mixer, same, shards

# huggingface_hub 2.4 with httpx2, when it uploads by LFS.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's library as it is, with our server for its hub, and nobody logged in."""
    for name in (
        "MLP_MIXER_OFFLINE",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = Hub()
    api = functools.partial(huggingface_hub.HfApi, endpoint=str(server))
    pull = functools.partial(huggingface_hub.snapshot_download, endpoint=str(server))
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", pull)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def refuses(match: str, action: Any, *arguments: Any, **options: Any) -> None:
    """`UserError` of one line; nothing that is said or printed holds the token."""
    out = contextlib.redirect_stdout(io.StringIO())
    err = contextlib.redirect_stderr(io.StringIO())
    with (
        out as said,
        err as complained,
        pytest.raises(UserError, match=match) as caught,
    ):
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    everything = (
        "".join(traceback.format_exception(caught.value))
        + said.getvalue()
        + complained.getvalue()
    )
    assert TOKEN not in everything


def test_what_is_pushed_can_be_pulled(hub: Hub, tmp_path: Path) -> None:
    first = mixer(TRAINED)
    second = mixer({"name": "second"}, gelu="tanh")
    url = push_to_hub(first, "me/birds", token=TOKEN)
    old = url.rpartition("/")[2]
    assert url == f"{hub}/me/birds/commit/{old}"
    files = hub.files("me/birds")
    assert files is not None
    assert sorted(files) == THREE
    folder = save_pretrained(first, tmp_path / "folder")
    for name in THREE[1:]:
        assert files[name] == (folder / name).read_bytes(), name
    assert files["README.md"].decode() == (folder / "README.md").read_text().replace(
        "OWNER/NAME", "me/birds"
    )
    assert same(from_pretrained("me/birds"), first)
    assert same(load("hf-hub:me/birds"), first)

    push_to_hub(second, "me/birds", token=TOKEN, message="another")
    assert same(from_pretrained("me/birds"), second)
    assert same(from_pretrained("me/birds", revision=old), first)
    assert same(load(f"hf-hub:me/birds@{old}"), first)


def test_only_what_is_needed_is_pulled(hub: Hub) -> None:
    push_to_hub(mixer(), "me/birds", token=TOKEN)
    files = hub.files("me/birds")
    assert files is not None
    files |= {
        "pytorch_model.bin": b"twice as much",
        "optimizer.pt": b"x",
        "runs/other.safetensors": b"x",
    }
    from_pretrained("me/birds")
    pulled = {line.rpartition("/")[2] for line in hub.seen if "/resolve/" in line}
    assert pulled == {"config.json", "model.safetensors"}


def test_pickled_weights_are_pulled_where_there_are_no_others(
    hub: Hub, tmp_path: Path
) -> None:
    checkpoint = mixer()
    shards(checkpoint, tmp_path / "folder", ".bin")
    push_to_hub(checkpoint, "me/birds", token=TOKEN)
    files = hub.files("me/birds")
    assert files is not None
    files.clear()
    files |= {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    assert same(from_pretrained("me/birds"), checkpoint)
    files.clear()
    files["notes.txt"] = b""
    hub.commits["me/birds"]["f" * 40] = files
    refuses(
        "'me/birds' on the Hugging Face hub holds no model.safetensors and no pytorch_model.bin",
        from_pretrained,
        "me/birds",
        revision="f" * 40,
    )


def test_a_private_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = mixer()
    push_to_hub(
        checkpoint, "birds", private=True, token=TOKEN
    )  # the owner is whose token it is
    assert hub.private == {"me/birds": True}
    assert b'from_pretrained("me/birds")' in (hub.files("me/birds") or {})["README.md"]
    refuses(
        "cannot download 'me/birds': no such repository, or a closed one; .*log in",
        from_pretrained,
        "me/birds",
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert same(from_pretrained("me/birds"), checkpoint)
    push_to_hub(mixer(), "me/open")
    before = hub.files("me/open")
    refuses(
        "'me/open' exists and is public", push_to_hub, mixer(), "me/open", private=True
    )
    assert hub.files("me/open") is before


@pytest.mark.parametrize(
    ("name", "token", "match"),
    [
        (
            "me/birds",
            None,
            "cannot upload to 'me/birds': no permission (Invalid username or password.); log in with",
        ),
        (
            "me/birds",
            "hf_wrong",
            "cannot upload to 'me/birds': no permission (Invalid username",
        ),
        (
            "you/birds",
            TOKEN,
            "cannot upload to 'you/birds': no permission (You don't have the rights",
        ),
        (
            "me/a/b",
            TOKEN,
            "cannot upload to 'me/a/b': .*no name of a repository, such as 'owner/name'",
        ),
        ("me/ü", TOKEN, "no name of a repository"),
        ("", TOKEN, "no name of a repository"),
        ("me/birds", f"{TOKEN}\n", "the token is empty or holds blanks"),
        ("me/birds", "", "the token is empty"),
    ],
)
def test_a_push_that_is_refused(
    hub: Hub, name: str, token: str | None, match: str
) -> None:
    refuses(
        match.replace("(", r"\(").replace(")", r"\)"),
        push_to_hub,
        mixer(),
        name,
        token=token,
    )
    assert not hub.commits


def test_a_push_that_fails_on_its_way_says_why(hub: Hub) -> None:
    refuses(
        "cannot upload to 'me/full': .*507 Insufficient Storage",
        push_to_hub,
        mixer(),
        "me/full",
        token=TOKEN,
    )
    assert hub.files("me/full") == {}


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        (
            "me/nothing",
            {},
            "cannot download 'me/nothing': no such repository, or a closed one; check the name",
        ),
        (
            "gated/birds",
            {},
            "cannot download 'gated/birds': no such repository, or a closed one",
        ),
        (
            "me/birds",
            {"revision": "v9"},
            "cannot download 'me/birds' at 'v9': no such revision; give one of its",
        ),
        (
            "broken/birds",
            {},
            "cannot download 'broken/birds': .*500 .*; check the connection",
        ),
        (
            "down/birds",
            {},
            "cannot download 'down/birds': .*disconnected.*; check the connection",
        ),
        (
            "a/b/c",
            {},
            "cannot download 'a/b/c': that is no folder here and no name of a repository",
        ),
        (
            "./no/such/folder",
            {},
            "cannot download './no/such/folder': that is no folder here",
        ),
        ("me/bi rds", {}, "no name of a repository"),
    ],
)
def test_a_pull_that_is_refused(
    hub: Hub, name: str, options: dict[str, str], match: str
) -> None:
    push_to_hub(mixer(), "me/birds", token=TOKEN)
    refuses(match, from_pretrained, name, **options)
    with pytest.raises(UserError, match=match):
        load(
            f"hf-hub:{name}" + "".join(f"@{revision}" for revision in options.values())
        )


def test_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = mixer()
    push_to_hub(checkpoint, "me/birds", token=TOKEN)
    assert same(from_pretrained("me/birds"), checkpoint)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for name in ("HfApi", "snapshot_download"):
            monkeypatch.setattr(
                huggingface_hub,
                name,
                functools.partial(getattr(huggingface_hub, name), endpoint=nowhere),
            )
        assert same(from_pretrained("me/birds"), checkpoint), "from the cache"
        refuses(
            "cannot download 'me/fish': .*refused.*; check the connection",
            from_pretrained,
            "me/fish",
        )
        refuses(
            "cannot upload to 'me/birds': .*refused.*; check the connection",
            push_to_hub,
            checkpoint,
            "me/birds",
        )


@pytest.mark.parametrize("switch", ["MLP_MIXER_OFFLINE", "HF_HUB_OFFLINE"])
def test_with_the_network_switched_off(
    hub: Hub, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = mixer()
    push_to_hub(checkpoint, "me/birds", token=TOKEN)
    from_pretrained("me/birds")
    monkeypatch.setenv(switch, "1")
    hub.seen.clear()
    assert same(from_pretrained("me/birds"), checkpoint)
    refuses(
        "cannot download 'me/fish': the network is switched off; bring it into '.*cache'",
        from_pretrained,
        "me/fish",
    )
    refuses(
        "cannot upload to 'me/birds': the network is switched off",
        push_to_hub,
        checkpoint,
        "me/birds",
        token=TOKEN,
    )
    assert not hub.seen


def test_the_environment_chooses_hub_token_and_cache(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN and HF_HOME work as documented, in a process of its own."""
    save_pretrained(mixer(TRAINED), tmp_path / "folder")
    code = (
        "import sys, mlp_mixer as m, torch\n"
        "c = m.load(sys.argv[1])\n"
        "print(m.push_to_hub(c, 'me/birds'))\n"
        "d = m.from_pretrained('me/birds'); p, q = c.model.state_dict(), d.model.state_dict()\n"
        "assert all(torch.equal(p[n], q[n]) for n in p)\n"
        "assert c.provenance == d.provenance\n"
        "assert c.labels == d.labels\n"
    )
    home = {
        "HF_ENDPOINT": str(hub),
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
    }
    quiet = "ignore:Use 'content=<...>' to upload raw bytes/text content.:DeprecationWarning"
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        quiet,
        "-c",
        code,
        str(tmp_path / "folder"),
    ]
    done = subprocess.run(
        command, env=os.environ | home, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{hub}/me/birds/commit/")
    assert TOKEN not in done.stdout + done.stderr
    assert (tmp_path / "home" / "hub" / "models--me--birds").is_dir()
