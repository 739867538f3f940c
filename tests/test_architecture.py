"""The import law of docs/tour.md: arrows point downward only. Read from the source by
AST, nothing is imported.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "mlp_mixer"
GROUND = {"_version", "errors", "config", "files", "distributed", "devices", "web"}

# room -> the rooms it may import, beside the ground floor and itself
LAW: dict[str, set[str]] = {
    "models": set(),
    "kernels": {"models"},
    "runtime": {"models", "kernels"},
    "images": set(),
    "weights": {"models", "images"},
    "data": {"images"},
    "analysis": {"evaluate", "weights", "data", "models", "images"},
    "evaluate": {"weights", "data", "models", "images"},
    "predict": {"runtime", "weights", "images", "models"},
    "train": {"kernels", "evaluate", "predict", "weights", "data", "models", "images"},
    "recipes": {"train", "models", "images"},
    "bench": {"train", "runtime", "kernels", "weights", "models", "images"},
    "export": {"runtime", "weights", "models", "images"},
    "serve": {"predict", "analysis", "images", "models"},
    "report": {
        "train",
        "evaluate",
        "predict",
        "analysis",
        "weights",
        "data",
        "models",
        "images",
    },
}
ROOF = {"cli", "compat", "__init__", "__main__"}
MODULES = sorted(SRC.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room a module stands in: its folder under the package, or itself."""
    return path.relative_to(SRC).with_suffix("").parts[0]


def imported_rooms(path: Path) -> list[tuple[int, str]]:
    """Line and room of every import of our own package, lazy ones and those for type
    checkers included.
    """
    found = []
    package = ["mlp_mixer", *path.relative_to(SRC).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = (
                [f"{stem}.{alias.name}" for alias in node.names]
                if stem == "mlp_mixer"
                else [stem]
            )
        else:
            continue
        found += [
            (node.lineno, name.split(".")[1])
            for name in names
            if name.startswith("mlp_mixer.")
        ]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_downward(path: Path) -> None:
    room = room_of(path)
    if room in ROOF:
        return
    allowed = GROUND | {room} | LAW.get(room, set())
    assert room in GROUND or room in LAW, (
        f"{room} has no place in the import law: add it to LAW and to docs/tour.md"
    )
    broken = [
        f"{path}:{line} imports {name}"
        for line, name in imported_rooms(path)
        if name not in allowed
    ]
    assert not broken, "\n".join(broken)


def test_the_law_names_only_rooms_that_exist() -> None:
    rooms = {room_of(path) for path in MODULES}
    assert set(LAW) | GROUND | ROOF == rooms


def test_an_upward_import_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader understands relative, absolute, lazy and package-level imports."""
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    module = tmp_path / "models" / "mixer.py"
    module.parent.mkdir()
    module.write_text(
        "from ..train.loop import train\nimport mlp_mixer.cli.train\nfrom .. import report\n"
        "def f():\n    from ..data import loader\n    from .layers import Mlp\n"
    )
    assert [name for _, name in imported_rooms(module)] == [
        "train",
        "cli",
        "report",
        "data",
        "models",
    ]


def test_modules_stay_small() -> None:
    """A module past 400 lines is usually two things."""
    long = [
        f"{path}: {n} lines"
        for path in MODULES
        if (n := len(path.read_text().splitlines())) > 400
    ]
    assert not long, "\n".join(long)
