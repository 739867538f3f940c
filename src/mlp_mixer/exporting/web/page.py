"""Put a classifier into one HTML file: page, runtime, network and names.

A page that fetches its files works from a server only: browsers give nothing to a page
of `file:`. With everything inside it works by a double click, and its content policy
can forbid every request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from ..._version import __version__
from ...config import recorded
from ...errors import UserError
from ...files import write_bytes, write_text
from ...images.preprocess import Preprocess
from ...weights import Checkpoint
from ...weights.scores import chosen_min_score
from .runtime import NAME, VERSION, Runtime

PAGE = "index.html"
LICENSES = "LICENSES.txt"

# Above that a browser may have no string for the page.
_MOST_BYTES = 256 * 2**20
_WORKER = ("resample.js", "turns.js", "deep.js", "pixels.js", "answers.js", "engine.js")
_EXPORTS = re.compile(rb"export\{([^{}]*)\};?\s*(//[^\n]*\s*)?$")
_NEEDED = ("InferenceSession", "Tensor", "env")


class Measures(NamedTuple):
    """How large a page is.

    Attributes:
        page: Bytes of the file.
        runtime: Bytes of it that are the runtime.
        model: Bytes of it that are the network.
    """

    page: int
    runtime: int
    model: int


def check_network(record: Preprocess, classes: int) -> None:
    """Raise an error if no page can answer with a network.

    Args:
        record: Its preprocessing.
        classes: How many it has.

    Raises:
        UserError: It has no classifier, or takes other pictures than a browser's.
    """
    if classes == 0:
        raise UserError(
            "this checkpoint has no classifier and cannot name classes in a page; "
            "fine-tune it first"
        )
    if record.channels not in (1, 3):
        raise UserError(
            f"the network takes pictures of {record.channels} channels, and a browser "
            "opens those of 1 or 3; export to onnx instead"
        )


def described(checkpoint: Checkpoint, *, int8: bool) -> dict[str, Any]:
    """Return what a page needs to know of a checkpoint, beside what every export does.

    Args:
        checkpoint: With a classifier.
        int8: Whether the page computes in int8.
    """
    model = checkpoint.model
    origin = recorded(dict(checkpoint.provenance))
    name = origin.get("name") or origin.get("model") or type(model).__name__
    numbered = [f"class {number}" for number in range(model.num_classes)]
    description: dict[str, Any] = {
        "name": str(name),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "labels": list(checkpoint.class_names() or numbered),
        "int8": int8,
    }
    if checkpoint.thresholds is None:
        chosen = chosen_min_score(checkpoint.provenance)
        description["min_score"] = None if chosen is None else asdict(chosen)
    return description


def write_page(
    folder: Path, graph: bytes, about: dict[str, Any], runtime: Runtime
) -> Measures:
    """Write the page and the licences into a folder.

    Args:
        folder: Is created.
        graph: The ONNX graph; it maps `image`, float32 (B, C, H, W), to `logits`.
        about: What an answer needs: `preprocess`, `labels`, `scores`, perhaps
            `thresholds` and `min_score`; and for people `name` and `parameters`.
        runtime: Of `find_runtime`.

    Returns:
        The sizes.

    Raises:
        UserError: The page would be too large for a browser.
    """
    text, measures = _page(graph, about, runtime)
    if measures.page > _MOST_BYTES:
        raise UserError(
            f"the page would have {measures.page / 2**20:,.0f} MiB, and browsers open "
            f"some {_MOST_BYTES >> 20} MiB; use --int8, or a smaller network"
        )
    folder.mkdir(parents=True)
    write_bytes(folder / PAGE, text.encode())
    write_text(folder / LICENSES, _asset("licenses.txt"))
    return measures


def _page(
    graph: bytes, about: dict[str, Any], runtime: Runtime
) -> tuple[str, Measures]:
    style = _asset("page.css")
    code = _asset("page.js")
    wasm = _packed(runtime.wasm)
    model = _packed(graph)
    engine = _engine(runtime.script)
    values = {
        "style": Markup(style),
        "code": Markup(code),
        "policy": _policy(style, code),
        "engine": Markup(engine),
        "wasm": wasm,
        "model": model,
        # No "<" can end the element that holds it.
        "about": Markup(json.dumps(about, ensure_ascii=False).replace("<", "\\u003c")),
        "name": about["name"],
        "parameters": f"{about['parameters']:,}",
        "classes": _counted(len(about["labels"])),
        "facts": _facts(about),
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(_asset("page.html.j2")).render(values)
    text = text.encode("utf-8", "replace").decode()
    sizes = Measures(len(text.encode()), len(wasm) + len(engine), len(model))
    return text, sizes


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _packed(data: bytes) -> str:
    """Return bytes as a browser unpacks them: gzip, in letters."""
    # Without the time, equal networks give equal pages.
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _engine(script: bytes) -> str:
    """Return the worker: the runtime as it came, then our own files.

    Browsers start no module in a worker of a page of `file:`, so the runtime's module
    becomes a script: it learns its address otherwise, and what it exports has short
    names inside it, which its last line tells.
    """
    found = _EXPORTS.search(script)
    assert found, f"{NAME} {VERSION} does not end with its exports"
    pairs = (part.split(" as ") for part in found[1].decode().split(","))
    inner = {pair[-1].strip(): pair[0].strip() for pair in pairs}
    names = ", ".join(f"{name}: {inner[name]}" for name in _NEEDED)
    own = "\n".join(map(_asset, _WORKER))
    theirs = script[: found.start()].decode()
    theirs = theirs.replace("import.meta.url", "self.location.href")
    # In blocks, so that equal names are not the same.
    ours = f"{{\nconst ort = {{ {names} }};\n{own}}}"
    text = f'(() => {{\n"use strict";\n{theirs}\n{ours}\n}})();\n'
    assert "</script" not in text.lower()
    assert "<!--" not in text
    return text


def _policy(style: str, code: str) -> str:
    """Return the content policy: this style, this script, this worker, no requests."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(code)} 'wasm-unsafe-eval'",
            f"style-src {_hash(style)}",
            "worker-src blob:",
            "img-src blob: data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _counted(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes:,} classes"


def _facts(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the page says of the classifier, for people."""
    labels = about["labels"]
    shown = ", ".join(labels[:40]) + (", …" if len(labels) > 40 else "")
    record = about["preprocess"]
    height, width = record["image_size"]
    colours = "gray" if record["channels"] == 1 else "in colour"
    scores = {
        "sigmoid": "for each class a yes or no of its own",
        "softmax": "of all classes together 100 %",
    }
    return [
        ("Classifier", about["name"]),
        ("Classes", shown),
        ("Looks at", f"{width} × {height} pixels, {colours}"),
        ("Scores", scores.get(about["scores"], about["scores"])),
        ("Computes in", "int8" if about["int8"] else "float32"),
        ("Made by", f"mlp_mixer {__version__}, with {NAME} {VERSION} (MIT licence)"),
    ]
