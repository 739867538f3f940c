"""Pages that are written from the code before Sphinx reads them.

The command line from typer, the recipes from their functions, SECURITY.md and the
experiments from the pages that stand elsewhere in the repository. They go to
`docs/generated`, which git ignores.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer

import mlp_mixer as mm
from mlp_mixer.cli import app
from mlp_mixer.config import to_dict
from mlp_mixer.exporting.web.runtime import NAME, VERSION, WASM
from mlp_mixer.files import cache_folder
from mlp_mixer.recipes import MEASURED, RECIPES
from mlp_mixer.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_MARKUP = re.compile(r"\[/?[a-z ]+\]")  # of rich


def setup(app: Any) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    app.connect("source-read", _keep_inside)
    app.connect("build-finished", _add_classifier)
    # Before napoleon, which is at 500.
    app.connect("autodoc-process-docstring", _from_markdown, priority=400)
    return {"parallel_read_safe": True}


def write_pages(docs: Path) -> None:
    """Write all generated pages of the site.

    Args:
        docs: The folder with conf.py.
    """
    out = docs / "generated"
    shutil.rmtree(out, ignore_errors=True)
    pages = {
        "commands": commands(),
        "recipes": recipes(),
        "security": moved(ROOT / "SECURITY.md", out),
        "try": TRY_HERE if _web_runtime() else TRY_ELSEWHERE,
        **experiments(out / "experiments"),
    }
    for name, text in pages.items():
        path = out / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


# A classifier that runs in the reader's browser.

TRY_HERE = """\
# Try it here

```{raw} html
<p><a href="../try/index.html"><strong>Open the classifier</strong></a></p>
```

A Mixer of 0.57 M parameters that knows CIFAR-10's ten classes: airplane, automobile,
bird, cat, deer, dog, frog, horse, ship, truck. It runs in your browser, and your
pictures stay there. `mlp-mixer export RUN site --to web` makes such a page of your own
run ([how](../deploy.md#a-page-that-needs-no-server)).
"""
TRY_ELSEWHERE = """\
# Try it in a browser

This copy of the documentation was built without the classifier. `mlp-mixer export
mixer_nano4.cifar10 site --to web` makes the page ([how](../deploy.md#a-page-that-needs-no-server)).
"""


def _web_runtime() -> Path | None:
    """Return where onnxruntime-web is, if it is in the cache already."""
    place = cache_folder(NAME, VERSION)
    return place if (place / WASM.name).is_file() else None


def _add_classifier(app: Any, error: Exception | None) -> None:
    runtime = _web_runtime()
    if error is None and runtime is not None:
        out = Path(app.outdir) / "try"
        mm.export("mixer_nano4.cifar10", out, to="web", runtime=runtime, overwrite=True)


# The command line.


def commands() -> str:
    """Return the page of all commands with their arguments and options."""
    parts = [
        "# Command line",
        "`mlp-mixer COMMAND --help` prints the same. Exit codes: 0 done; 1 a part failed "
        "and is listed; 2 a mistake in what was asked, in one sentence; 130 Ctrl-C, 143 "
        "SIGTERM.",
    ]
    for name, command in _leaves(typer.main.get_command(app), "mlp-mixer"):
        parts += _command(name, command)
    return "\n\n".join(parts) + "\n"


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands that do something, with the words that call them."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for word, child in below.items():
        if not child.hidden:
            yield from _leaves(child, f"{name} {word}")


def _command(name: str, command: Any) -> list[str]:
    """Return the section of one command: its usage, its help, a table of parameters."""
    context = typer.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {name}", f"```text\n{name} {usage}\n```", _plain(command.help or "")]
    rows = []
    for parameter in command.params:
        # Options describe themselves; arguments stand in the usage alone.
        record = parameter.get_help_record(context)
        if record is None and parameter.param_type_name == "argument":
            record = (parameter.metavar or parameter.name, parameter.help or "")
        if record is not None:
            shown = record[0].replace("|", "\\|")
            rows.append(f"| `{shown}` | {_plain(record[1])} |".replace("\n", " "))
    if rows:
        lines.append("\n".join(["| | |", "|---|---|", *rows]))
    return lines


def _plain(text: str) -> str:
    """Return help text as Markdown, without the markup of the terminal."""
    text = _MARKUP.sub("", cleandoc(text).replace("\b", ""))
    text = re.sub(r"(?<!`)(--[a-z][a-z-]*)", r"`\1`", text)
    return text.replace("|", "\\|").replace("<", "&lt;")


# The recipes.


def recipes() -> str:
    """Return the page of all recipes: what each says of itself and what it sets."""
    default = _flat(to_dict(TrainConfig(recipe="")))
    parts = [
        "# Recipes",
        "A recipe is a function that returns a complete configuration "
        "(`mm.get_recipe(NAME)`); `--set FIELD=VALUE` changes a field. Below stand the "
        "fields in which each differs from the defaults. What [the manual](../training.md"
        ") says of their originals is compared with them by a test.",
    ]
    for name, recipe in RECIPES.items():
        parts += [f"## {name}", cleandoc(recipe.__doc__ or "").replace("<", "&lt;")]
        if name in MEASURED:
            row = MEASURED[name]
            parts.append(f"Measured: {row} on {row.dataset}; {row.cost}.")
        own = _flat(to_dict(recipe()))
        rows = [
            f"| `{field}` | `{value}` |"
            for field, value in own.items()
            if field != "recipe" and default.get(field) != value
        ]
        parts.append("\n".join(["| field | value |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[before + key] = value
    return found


# Pages that stand elsewhere.


def experiments(out: Path) -> dict[str, str]:
    """Return the pages of the experiments by name.

    Args:
        out: Where they will stand.
    """
    source = ROOT / "experiments"
    pages = {"experiments/index": moved(source / "README.md", out)}
    names = [path.parent.name for path in sorted(source.glob("*/README.md"))]
    for name in names:
        pages[f"experiments/{name}"] = moved(source / name / "README.md", out)
    listed = "\n".join(names)
    pages["experiments/index"] += f"\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    return pages


def moved(page: Path, out: Path) -> str:
    """Return the text of a page whose relative links hold from another folder.

    Args:
        page: Where it stands.
        out: The folder that its copy goes to.
    """

    def link(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        here = (page.parent / path).resolve()
        place = _as_page(here, out) or os.path.relpath(here, out)
        return f"{mark}[{text}]({place}{'#' + anchor if anchor else ''})"

    return _LINK.sub(link, page.read_text(encoding="utf-8"))


def _as_page(path: Path, out: Path) -> str | None:
    """Return the page of the site that shows a file or folder of the repository."""
    source = ROOT / "experiments"
    folder = path.parent if path.name == "README.md" else path
    if folder == source:
        place = ROOT / "docs/generated/experiments/index.md"
    elif folder.parent == source and (folder / "README.md").is_file():
        place = ROOT / f"docs/generated/experiments/{folder.name}.md"
    elif path == ROOT / "SECURITY.md":
        place = ROOT / "docs/generated/security.md"
    else:
        return None
    return os.path.relpath(place, out)


def _keep_inside(app: Any, name: str, source: list[str]) -> None:
    """Turn links that leave the site into links to its pages, or into plain text."""
    folder = (Path(app.srcdir) / name).parent

    def link(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if mark or not path or re.match(r"[a-z]+:", path):
            return match[0]
        here = (folder / path).resolve()
        page = _as_page(here, folder)
        if page is not None:
            return f"[{text}]({page}{'#' + anchor if anchor else ''})"
        if here.is_relative_to(app.srcdir) and here.suffix == ".md":
            return match[0] if here.name != "log.md" else text
        # Code and data are no pages: their names say where they are.
        return text

    source[0] = _LINK.sub(link, source[0])


# Docstrings are written as Markdown.


def _from_markdown(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Turn code in a docstring, in the line or indented, into reStructuredText."""
    found: list[str] = []
    before = ""
    for line in lines:
        text = re.sub(r"(?<!`)`([^`]+)`(?!`|_)", r"``\1``\\ ", line)
        after_prose = before and not before.startswith(" ") and before[-1] != ":"
        if line.startswith("    ") and after_prose and not found[-1]:
            found += ["::", ""]
        found.append(text)
        before = line or before
    lines[:] = found
