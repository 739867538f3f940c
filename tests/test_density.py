"""How dense the code is to read, bounded: the measures and bounds of docs/tour.md.

A budget of lines can be met by packing them; tokens on a line cannot. Measured with the
same counts: big_vision has a 90th percentile of 15 tokens a line, timm 17, nanochat 17,
torchtitan 12.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONG = 100  # columns

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Density:
    """Counts over files.

    Attributes:
        tokens: Tokens on each line that holds code (no comments, no docstrings).
        long: Lines of code past `LONG` columns.
        packed: Assignments of several things at once, `a, b = x, y`.
        comments: Whole-line comments.
    """

    tokens: list[int] = field(default_factory=list)
    long: int = 0
    packed: int = 0
    comments: int = 0

    def add(self, text: str) -> None:
        """Count one file."""
        tree = ast.parse(text)
        docstrings = docstring_lines(tree)
        on_line: dict[int, int] = {}
        inside = 0  # of so many f-strings
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            line = token.start[0]
            kind = tokenize.tok_name[token.type]
            # From Python 3.12 on an f-string is many tokens; here it is one.
            inside -= kind == "FSTRING_END"
            if inside or kind == "FSTRING_END":
                inside += kind == "FSTRING_START"
                continue
            inside += kind == "FSTRING_START"
            if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
                self.comments += 1
            if token.type not in _NO_CODE and line not in docstrings:
                on_line[line] = on_line.get(line, 0) + 1
        lines = text.splitlines()
        self.tokens += on_line.values()
        self.long += sum(len(lines[number - 1]) > LONG for number in on_line)
        self.packed += sum(is_packed(node) for node in ast.walk(tree))

    @property
    def p90(self) -> int:
        """The 90th percentile of tokens on a line."""
        return sorted(self.tokens)[int(0.9 * len(self.tokens))]

    def per_thousand(self, count: int) -> float:
        """A count for every 1,000 lines of code."""
        return 1000 * count / len(self.tokens)


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of all lines that docstrings cover."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, _HAS_DOCSTRING) or ast.get_docstring(node) is None:
            continue
        docstring = node.body[0]
        lines |= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


def is_packed(node: ast.AST) -> bool:
    """Whether a node is `a, b = x, y`."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def density(folder: str) -> Density:
    found = Density()
    for path in sorted((ROOT / folder).rglob("*.py")):
        found.add(path.read_text(encoding="utf-8"))
    return found


def test_the_package_can_be_read_aloud() -> None:
    found = density("src/mlp_mixer")
    assert found.p90 <= 18
    assert found.per_thousand(found.packed) <= 5
    assert found.per_thousand(found.long) <= 30
    assert found.per_thousand(found.comments) >= 25


@pytest.mark.parametrize(
    "file",
    [
        "training/loop.py",
        "training/step.py",
        "training/extras/elastic.py",
        "weights/loading.py",
        "weights/lineages/translate.py",
        "runtime/packed.py",
        "kernels/launch.py",
        "kernels/ops.py",
    ],
)
def test_comments_say_why_where_a_reader_stops(file: str) -> None:
    found = Density()
    found.add((ROOT / "src/mlp_mixer" / file).read_text(encoding="utf-8"))
    assert found.per_thousand(found.comments) >= 25


@pytest.mark.parametrize("folder", ["tests", "experiments"])
def test_tests_and_experiments_can_be_read_too(folder: str) -> None:
    assert density(folder).p90 <= 20


def test_the_measure_counts_what_it_says() -> None:
    found = Density()
    found.add(
        '"""A docstring,\nof two lines."""\n\n# A comment.\na, b = 1, 2  # more\nc = (\n    3\n)\n'
    )
    assert found.tokens == [7, 3, 1, 1]
    assert (found.packed, found.comments, found.long) == (1, 1, 0)
    found.add(f"d = {'1' * 100}\n")
    assert found.long == 1
