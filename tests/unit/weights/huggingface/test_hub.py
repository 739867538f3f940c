"""Hugging Face: what a folder holds, what its card says, and a hub of our own to push
to and to pull from.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import re
import runpy
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
import safetensors
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file

from mlp_mixer import (
    Checkpoint,
    Preprocess,
    UserError,
    create_model,
    from_pretrained,
    load,
    push_to_hub,
    save,
    save_pretrained,
)
from mlp_mixer.weights import read_weights
from mlp_mixer.weights.catalog import CATALOG
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.huggingface import hub as module

pytestmark = pytest.mark.filterwarnings(  # huggingface_hub 2.4 with httpx2, when it uploads by LFS
    "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
)

LABELS = ("cat", "dög|fish", "<b>owl</b>")
TOKEN = "hf_SecretSecretSecret"
THREE = ["README.md", "config.json", "model.safetensors"]


def mixer(provenance: dict[str, Any] | None = None, **fields: Any) -> Checkpoint:
    """A small one with erf GELU and no parameter at its initial value."""
    model = create_model(
        "mixer_pico2", **({"num_classes": 3, "gelu": "erf"} | fields)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = model.config
    preprocess = Preprocess(
        config.image_size, config.in_channels, resampler="opencv", crop_pct=0.9
    )
    return Checkpoint(
        model, preprocess, LABELS if config.num_classes == 3 else None, provenance or {}
    )


def same(ours: Checkpoint, theirs: Checkpoint) -> bool:
    """Bit-equal tensors, and equal in everything that describes them."""
    left = ours.model.state_dict()
    right = theirs.model.state_dict()
    tensors = list(left) == list(right) and all(
        torch.equal(left[name], right[name]) for name in left
    )
    words = ("preprocess", "labels", "provenance")
    return (
        tensors
        and ours.model.config == theirs.model.config
        and all(getattr(ours, word) == getattr(theirs, word) for word in words)
    )


# --- the folder


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gelu": "tanh", "norm_eps": 1e-5, "drop_path": 0.1, "drop_path_rule": "timm"},
        {"final_norm": False, "in_channels": 2, "image_size": (4, 10)},
        {"hidden_dim": 17, "num_classes": 0},
    ],
)
def test_a_folder_comes_back_as_it_was(fields: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = mixer(
        {
            "measured": {"top1": 0.5, "n": None},
            "data": {"source": "dïgits"},
            "list": [1, "a"],
        },
        **fields,
    )
    folder = save_pretrained(checkpoint, tmp_path / "new" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == THREE
    for back in (
        from_pretrained(folder),
        load(str(folder)),
        from_pretrained(str(folder)),
    ):
        assert same(checkpoint, back)


def test_its_bytes_depend_on_its_content_alone(tmp_path: Path) -> None:
    checkpoint = mixer({"b": 1, "a": 2})
    first, second = (
        save_pretrained(checkpoint, tmp_path / name) for name in ("first", "second")
    )
    for name in THREE:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    with safetensors.safe_open(first / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = mixer()
    save_pretrained(checkpoint, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*THREE, "notes.txt"]
    )
    assert same(from_pretrained(tmp_path), checkpoint)


def test_what_cannot_be_described_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="2 labels for 3 classes"):
        save_pretrained(dataclasses.replace(mixer(), labels=("a", "b")), tmp_path)
    monkeypatch.setattr(module, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(mixer(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_dtype_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = mixer()
    checkpoint.model.to(dtype)
    folder = save_pretrained(checkpoint, tmp_path / "direct")
    native = save(tmp_path / "native.safetensors", checkpoint.model)
    converted = convert(native, tmp_path / "converted", "huggingface").path
    for place in (folder, converted):
        assert {
            tensor.dtype for tensor in load_file(place / "model.safetensors").values()
        } == {dtype}
        assert {tensor.dtype for tensor in read_weights(place).tensors.values()} == {
            dtype
        }
        assert {parameter.dtype for parameter in load(place).model.parameters()} == {
            torch.float32
        }
        assert f"stored as {str(dtype)[6:]}" in (place / "README.md").read_text()


def test_the_configuration_is_timms(tmp_path: Path) -> None:
    described = json.loads(
        (
            save_pretrained(mixer({"head": "sigmoid"}), tmp_path) / "config.json"
        ).read_text()
    )
    ours = described.pop("mlp_mixer")
    assert set(ours) == {
        "config",
        "preprocess",
        "labels",
        "provenance",
        "format_version",
    }
    assert ours["preprocess"]["resampler"] == "opencv"
    assert described == {
        "architecture": "mixer_pico2_8",
        "num_classes": 3,
        "num_features": 64,
        "global_pool": "avg",
        "label_names": list(LABELS),
        "problem_type": "multi_label_classification",
        "pretrained_cfg": {
            "input_size": [3, 8, 8],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 3,
            "first_conv": "stem.proj",
            "classifier": "head",
        },
    }


@pytest.mark.parametrize(
    "fields", [{"gelu": "tanh"}, {"hidden_dim": 17}, {"final_norm": False}]
)
def test_what_timm_computes_otherwise_is_closed_to_it(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = save_pretrained(mixer(**fields), tmp_path)
    assert list(json.loads((folder / "config.json").read_text())) == ["mlp_mixer"]
    card = (folder / "README.md").read_text()
    assert "timm and transformers would not give the same results: " in card
    assert "import timm" not in card


def shards(checkpoint: Checkpoint, folder: Path, suffix: str) -> dict[str, str]:
    """The folder's single file as two, with their index; the names of the tensors, and
    where they are.
    """
    save_pretrained(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    places = {
        name: f"{stem}-0000{1 + number % 2}-of-00002{suffix}"
        for number, name in enumerate(tensors)
    }
    for place in set(places.values()):
        part = {
            name: tensor for name, tensor in tensors.items() if places[name] == place
        }
        save_file(part, folder / place) if suffix == ".safetensors" else torch.save(
            part, folder / place
        )
    (folder / f"{stem}{suffix}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return places


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_one_model(suffix: str, tmp_path: Path) -> None:
    checkpoint = mixer()
    shards(checkpoint, tmp_path, suffix)
    assert same(load(tmp_path), checkpoint)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"stem.proj.bias": "../secret.safetensors"}},
            "points to '../secret.safetensors', outside",
        ),
        (
            {"weight_map": {"stem.proj.bias": "third.safetensors"}},
            "lacks the shard 'third.safetensors'",
        ),
        (
            {"weight_map": {"more": "model-00001-of-00002.safetensors"}},
            "shards in .* lack more",
        ),
        ({"weight_map": {"stem.proj.bias": 3}}, "has no weight_map"),
        ([], "holds list, expected a JSON object"),
    ],
)
def test_a_wrong_index(index: Any, message: str, tmp_path: Path) -> None:
    shards(mixer(), tmp_path, ".safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "'.*config.json' is damaged or no JSON"),
        ("[" * 100_000, "'.*config.json' is damaged or no JSON"),
        ("[]", "holds list, expected a JSON object"),
        ('{"mlp_mixer": "x"}', "damaged: its 'mlp_mixer' is no JSON object"),
    ],
)
def test_a_wrong_configuration(config: str, message: str, tmp_path: Path) -> None:
    (save_pretrained(mixer(), tmp_path) / "config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="holds no best.safetensors .*and no model.safetensors"
    ):
        from_pretrained(tmp_path)


# --- the card

TRAINED = {
    "recipe": "digits",
    "model": "mixer_pico2",
    "data": {
        "source": "digits",
        "fingerprint": "abc",
        "n_train": 1200,
        "val_fraction": 0.1,
    },
    "seed": 3,
    "measured": {
        "split": "val",
        "epoch": 30.0,
        "top1": 0.9321,
        "top5": 1.0,
        "loss": 0.25,
        "n": 144,
    },
}


def card(folder: Path, *arguments: Any, **fields: Any) -> tuple[dict[str, Any], str]:
    """Metadata as the hub's library reads it, and text, of a checkpoint with that
    provenance.
    """
    text = (
        save_pretrained(mixer(*arguments, **fields), folder) / "README.md"
    ).read_text()
    return ModelCard(text).data.to_dict(), text


def test_the_card_of_a_trained_model(tmp_path: Path) -> None:
    metadata, text = card(tmp_path, TRAINED)
    assert metadata == {
        "library_name": "mlp-mixer",
        "pipeline_tag": "image-classification",
        "tags": ["mlp-mixer", "image-classification", "arxiv:2105.01601"],
        "model-index": [
            {
                "name": "mixer_pico2 on digits",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "digits", "type": "digits", "split": "val"},
                        "metrics": [{"type": "accuracy", "value": 0.9321}],
                    }
                ],
            }
        ],
    }
    for line in (
        "# mixer_pico2 on digits",
        "| Architecture | 4 blocks of 64 channels on 16 patches of 2 x 2 pixels |",
        "| Hidden widths | 32 across patches, 256 across channels |",
        "| Parameters | 138,819, stored as float32 |",
        "| Input | 3 channels of 8 x 8 pixels (height x width) |",
        "| Classes | 3 |",
        "| Scores | softmax: the classes compete |",
        "| Trained on | digits |",
        "| Licence | not stated |",
        "| top-1 accuracy | 93.21 % |",
        "| images | 144 |",
        "In the order of the output: 0 cat, 1 dög\\|fish, 2 &lt;b&gt;owl&lt;/b&gt;.",
        "| seed | 3 |",
        "| data | source: digits; fingerprint: abc; n_train: 1200; val_fraction: 0.1 |",
    ):
        assert line in text.splitlines()
    assert "which also chose this checkpoint" in text
    assert "not as opencv does" in text
    assert "the paper |" not in text


def test_the_card_of_published_weights(tmp_path: Path) -> None:
    record = CATALOG["mixer_b16.goog_in1k"]
    origin = {
        "name": record.name,
        "licence": "Apache-2.0",
        "trained_on": "ImageNet-1k; x",
        "source": record.url,
    }
    metadata, text = card(tmp_path, origin | {"head": "sigmoid"}, gelu="tanh")
    assert metadata["license"] == "apache-2.0"
    assert "model-index" not in metadata, "published is not measured"
    assert f"| Row of the paper | {record.paper_row} |" in text
    assert (
        "| Published accuracy | 76.44 % top-1 on ImageNet-1k, according to arXiv 2105.01601, Table 3 |"
        in text
    )
    assert "| Scores | sigmoid: one yes or no per class |" in text
    assert "| Trained on | ImageNet-1k; x |" in text
    assert "## Measured" not in text
    assert f"| source | {record.url} |" in text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("unknown", {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("My own: (c) 2026", {"license": "other", "license_name": "my-own-c-2026"}),
        (None, {}),
    ],
)
def test_the_licence_is_one_the_hub_knows(
    licence: str | None, expected: dict[str, str], tmp_path: Path
) -> None:
    metadata, _ = card(tmp_path, {"licence": licence} if licence else {})
    assert {
        key: value for key, value in metadata.items() if key.startswith("license")
    } == expected


@pytest.mark.parametrize(
    "origin",
    [
        {"measured": {"top1": "93 %"}, "data": {"source": "digits"}},
        {"measured": {"top1": 0.9}},
        {"measured": 0.9, "data": "digits"},
        {"measured": {"top1": 0.9, "split": "val"}, "data": {}},
        {
            "measured": {"top1": 0.9, "split": "val"},
            "data": {"source": None, "<script>": "<script>"},
        },
        {"measured": {"loss": None}, "data": {"source": "digits"}},
        {"name": "a\n---\n# b | <script>", "licence": 3, "head": "x"},
    ],
)
def test_odd_provenance_makes_no_claims_and_no_mess(
    origin: dict[str, Any], tmp_path: Path
) -> None:
    metadata, text = card(tmp_path, origin)
    assert "model-index" not in metadata
    assert "<script" not in text.split("---", 2)[2]
    assert len(re.findall("^# ", text, flags=re.MULTILINE)) == 1


def test_the_card_of_a_network_without_classes(tmp_path: Path) -> None:
    metadata, text = card(tmp_path, num_classes=0)
    assert metadata["pipeline_tag"] == "image-feature-extraction"
    assert "| Output | 64 pooled features; there is no classifier |" in text
    assert "pipeline(" not in text


def test_many_classes_are_not_listed(tmp_path: Path) -> None:
    few = mixer(num_classes=50)
    many = mixer(num_classes=51)
    for checkpoint, listed in ((few, True), (many, False)):
        named = dataclasses.replace(
            checkpoint,
            labels=tuple(f"kind {i}" for i in range(checkpoint.model.num_classes)),
        )
        assert (
            "## Classes" in (save_pretrained(named, tmp_path) / "README.md").read_text()
        ) == listed


@pytest.mark.parametrize("name", ["mixer_pico2", "mixer_s32"])
@pytest.mark.parametrize("classes", [3, 0])
def test_every_example_of_the_card_runs(
    name: str,
    classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    model = create_model(
        name,
        num_classes=classes,
        gelu="erf",
        image_size=32,
        num_blocks=8 if "32" in name else 4,
    )
    text = (
        save_pretrained(Checkpoint(model, Preprocess((32, 32))), "OWNER/NAME")
        / "README.md"
    ).read_text()
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == (3 if classes else 2)
    assert ("timm_models.register()" in text) == (name == "mixer_pico2")
    for example in examples:
        Path("example.py").write_text(example.replace("hf-hub:", "local-dir:"))
        runpy.run_path("example.py")
    assert capsys.readouterr().out


# --- a hub


class Hub(http.server.ThreadingHTTPServer):
    """As much of huggingface.co as a push and a pull need: repositories, commits, files
    of git and of LFS.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[
            str, dict[str, dict[str, bytes]]
        ] = {}  # repository -> commit -> path -> bytes
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}  # of LFS, by their SHA-256
        self.seen: list[str] = []  # methods and paths

    def __str__(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes] | None:
        commits = self.commits[repository]
        return commits.get(list(commits)[-1] if revision == "main" else revision)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: Any = None, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.answer(
            {"error": message}, status, X_Error_Code=code, X_Error_Message=message
        )

    def do_GET(self) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.seen.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/repos/create":
            self.create(json.loads(body), known)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif match := re.fullmatch("/lfs/([0-9a-f]{64})", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            hub.blobs[match[1]] = body
            self.answer()
        elif match := re.fullmatch(r"/(\w+/\w+).git/info/lfs/objects/batch", path):
            place = f"{hub}/{'full' if match[1] == 'me/full' else 'lfs'}"
            upload = [
                o | {"actions": {"upload": {"href": f"{place}/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer({"objects": upload, "transfer": "basic"})
        elif path.startswith("/full/"):
            self.refuse(507)
        elif "/down/" in path:
            self.connection.shutdown(socket.SHUT_RDWR)
        elif "/broken/" in path:
            self.refuse(500)
        elif "/gated/" in path:
            self.refuse(403, "GatedRepo", "Access to model is restricted")
        elif match := re.fullmatch(
            r"/(?:api/models/)?(\w+/\w+)(?:/(\w+)/(\w+)(?:/(.+))?)?", path
        ):
            repository, verb, revision, name = match.groups()
            if repository not in hub.commits or (hub.private[repository] and not known):
                self.refuse(
                    404 if known else 401, "RepoNotFound", "Repository not found"
                )
            elif verb in ("preupload", "commit"):
                getattr(self, verb)(repository, body)
            elif (files := hub.files(repository, revision or "main")) is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                commit = next(
                    key
                    for key, value in hub.commits[repository].items()
                    if value is files
                )
                self.read(verb, files, commit, name, repository)
        else:
            self.refuse(400, message=f"no such call: {path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def create(self, wanted: dict[str, Any], known: bool) -> None:
        repository = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        if not known:
            self.refuse(401, message="Invalid username or password.")
        elif not repository.startswith("me/"):
            self.refuse(
                403,
                message=f"You don't have the rights to create a model under {wanted['organization']}",
            )
        elif repository in self.server.commits:
            self.answer(
                {
                    "error": "You already created this model repo",
                    "url": f"{self.server}/{repository}",
                },
                409,
            )
        else:
            self.server.commits[repository] = {
                hashlib.sha1(repository.encode()).hexdigest(): {}
            }
            self.server.private[repository] = wanted.get(
                "visibility"
            ) == "private" or bool(wanted.get("private"))
            self.answer({"url": f"{self.server}/{repository}", "name": repository})

    def preupload(self, repository: str, body: bytes) -> None:
        modes = {True: "lfs", False: "regular"}
        names = [file["path"] for file in json.loads(body)["files"]]
        files = [
            {
                "path": n,
                "uploadMode": modes[n.endswith(".safetensors")],
                "shouldIgnore": False,
            }
            for n in names
        ]
        self.answer({"files": files})

    def commit(self, repository: str, body: bytes) -> None:
        files = dict(self.server.files(repository) or {})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(
                    line["value"]["content"]
                )
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.server.blobs[line["value"]["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        self.server.commits[repository][commit] = files
        self.answer(
            {
                "commitOid": commit,
                "commitUrl": f"{self.server}/{repository}/commit/{commit}",
            }
        )

    def read(
        self,
        verb: str | None,
        files: dict[str, bytes],
        commit: str,
        name: str | None,
        repository: str,
    ) -> None:
        blobs = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        if verb in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            private = self.server.private[repository]
            self.answer(
                {
                    "id": repository,
                    "modelId": repository,
                    "sha": commit,
                    "private": private,
                    "siblings": siblings,
                }
            )
        elif verb == "tree":
            rows = [
                {"type": "file", "path": p, "size": len(data), "oid": blobs[p][:40]}
                for p, data in files.items()
            ]
            self.answer(rows)
        elif name in files:
            self.answer(
                files[name],
                ETag=f'"{blobs[name]}"',
                X_Repo_Commit=commit,
                Accept_Ranges="bytes",
            )
        else:
            self.refuse(404, "EntryNotFound", "Entry not found")


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
    """As that library documents it: HF_ENDPOINT, HF_TOKEN and HF_HOME, in a process of
    its own.
    """
    save_pretrained(mixer(TRAINED), tmp_path / "folder")
    code = (
        "import sys, mlp_mixer as m, torch; c = m.load(sys.argv[1]); print(m.push_to_hub(c, 'me/birds'))\n"
        "d = m.from_pretrained('me/birds'); p, q = c.model.state_dict(), d.model.state_dict()\n"
        "assert all(torch.equal(p[n], q[n]) for n in p); assert c.provenance == d.provenance and c.labels == d.labels"
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
        command, env=os.environ | home, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{hub}/me/birds/commit/")
    assert TOKEN not in done.stdout + done.stderr
    assert (tmp_path / "home" / "hub" / "models--me--birds").is_dir()
