"""The import law of docs/tour.md: arrows point downward only, between files too.

It is read from the source by AST; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "mlp_mixer"
MOST_LINES = 400  # of a module: a longer one is usually two things

# Any room may use these; among themselves they only must not go in circles.
GROUND = {
    "_version",
    "choices",
    "config",
    "devices",
    "distributed",
    "errors",
    "files",
    "intervals",
    "machine",
    "randomness",
    "remote",
    "untrusted",
    "web",
}

# room -> the rooms it imports, besides the ground and itself
LAW: dict[str, set[str]] = {
    "models": set(),
    "images": set(),
    "kernels": {"models"},
    "runtime": {"kernels", "models"},
    "weights": {"images", "models"},
    "data": {"images"},
    "evaluation": {"data", "images", "models", "weights"},
    "inference": {"images", "models", "runtime", "weights"},
    "exporting": {"data", "images", "models", "runtime", "weights"},
    "analysis": {"data", "evaluation", "images", "models", "weights"},
    "training": {"data", "evaluation", "images", "kernels", "models", "weights"},
    "recipes": {"images", "training"},
    "bench": {"kernels", "models", "runtime", "weights"},
    "report": {"analysis", "data", "evaluation", "models", "training", "weights"},
    "check": {"data", "images", "report"},
    "serve": {"analysis", "images", "inference", "models"},
}
ROOF = {"api", "cli", "compat", "__init__", "__main__"}
MODULES = sorted(SRC.rglob("*.py"))

# What begins in a moment: the package, the command, and the way to a few answers.
QUICK = ("mlp_mixer", "mlp_mixer.cli", "mlp_mixer.inference.light")
# What takes long to import; torch alone two seconds. On that way it is lazy.
SLOW = {"torch", "torchvision", "jaxtyping", "sklearn", "scipy", "h5py", "onnxruntime"}


def room_of(path: Path) -> str:
    """The room of a module: its folder under the package, or the module itself."""
    return path.relative_to(SRC).with_suffix("").parts[0]


def dotted(path: Path) -> str:
    """The dotted name of a module; of a package's __init__.py that of the package."""
    parts = ["mlp_mixer", *path.relative_to(SRC).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, lazy: bool = True) -> Iterator[tuple[int, str, str]]:
    """Line, module and name of each import: lazy ones and those for types included."""
    package = ["mlp_mixer", *path.relative_to(SRC).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else at_once(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, module, alias.name


def at_once(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: no body of a function, nothing for types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from at_once(node)


def imported_rooms(path: Path) -> list[tuple[int, str]]:
    """Line and room of every import from this package."""
    found = []
    for line, module, name in imports(path):
        full = f"{module}.{name}" if module == "mlp_mixer" else module
        if full.startswith("mlp_mixer."):
            found.append((line, full.split(".")[1]))
    return found


def imported_files(path: Path, names: set[str]) -> set[str]:
    """The modules of this package that a module imports."""
    found = set()
    for _, module, name in imports(path):
        # `from .room import file` names a file, `from .file import thing` does too.
        full = f"{module}.{name}"
        found.add(full if full in names else module)
    return (found & names) - {dotted(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_downward(path: Path) -> None:
    room = room_of(path)
    if room in ROOF:
        return
    assert room in GROUND | set(LAW), (
        f"{room} has no place in the import law: add it to LAW and to docs/tour.md"
    )
    allowed = GROUND | {room} | LAW.get(room, set())
    broken = [
        f"{path}:{line} imports {name}"
        for line, name in imported_rooms(path)
        if name not in allowed
    ]
    assert not broken, "\n".join(broken)


def test_the_law_allows_no_arrow_that_nobody_uses() -> None:
    used: dict[str, set[str]] = {room: set() for room in LAW}
    for path in MODULES:
        room = room_of(path)
        if room in LAW:
            used[room] |= {name for _, name in imported_rooms(path)}
    unused = {
        f"{room} -> {other}"
        for room, others in LAW.items()
        for other in others - used[room]
    }
    assert not unused


def test_the_law_names_only_rooms_that_exist() -> None:
    rooms = {room_of(path) for path in MODULES}
    assert set(LAW) | GROUND | ROOF == rooms


def test_no_files_import_each_other_in_a_circle() -> None:
    """Also inside a room. A package's __init__.py stands above the files it exports."""
    names = {dotted(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        name = dotted(path)
        others = imported_files(path, names)
        graph[name] = {other for other in others if not other.startswith(f"{name}.")}
        # From inside a package, its own __init__.py is no file below.
        graph[name] = {
            other for other in graph[name] if not name.startswith(f"{other}.")
        }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def slow_imports(start: str) -> set[str]:
    """The slow packages that an import brings along, each with a file that names it."""
    files = {dotted(path): path for path in MODULES}
    found = set()
    todo = [start]
    done = set()
    while todo:
        name = todo.pop()
        if name in done or name not in files:
            continue
        done.add(name)
        # The packages around a module are imported before it.
        todo.append(name.rpartition(".")[0])
        for _, module, thing in imports(files[name], lazy=False):
            todo += [module, f"{module}.{thing}"]
            if SLOW & {module.partition(".")[0], module.rpartition(".")[2]}:
                found.add(f"{files[name]} imports {module}")
    return found


@pytest.mark.parametrize("start", QUICK)
def test_what_begins_in_a_moment_imports_nothing_slow(start: str) -> None:
    assert not slow_imports(start)


def test_slow_imports_are_found() -> None:
    """Over several files, and through the packages around them."""
    assert any("imports torch" in line for line in slow_imports("mlp_mixer.api"))
    assert slow_imports("mlp_mixer.models.families")
    assert slow_imports("mlp_mixer.inference.predictor")


def test_an_upward_import_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader understands relative, absolute, lazy and package-level imports."""
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    module = tmp_path / "models" / "mixer.py"
    module.parent.mkdir()
    module.write_text(
        "from ..training.loop import train\n"
        "import mlp_mixer.cli.train\n"
        "from .. import report\n"
        "def f():\n"
        "    from ..data import loader\n"
        "    from .layers import Mlp\n"
    )
    rooms = [name for _, name in imported_rooms(module)]
    assert rooms == ["training", "cli", "report", "data", "models"]
    names = {"mlp_mixer.data.loader", "mlp_mixer.data", "mlp_mixer.models.layers"}
    assert imported_files(module, names) == names - {"mlp_mixer.data"}


def test_modules_stay_small() -> None:
    long = []
    for path in MODULES:
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > MOST_LINES:
            long.append(f"{path}: {count} lines")
    assert not long, "\n".join(long)
