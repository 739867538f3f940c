"""Write the lowest version of each dependency, as pip's constraints.

    python tools/lowest.py lowest.txt && pip install -c lowest.txt -e .

`make test-lowest` runs the suite on them: a lower bound that nobody installs is a guess.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[.*\])?>=(?P<version>[\w.]+)")


def lowest(pyproject: Path = PYPROJECT) -> list[str]:
    """Return a line for each package that any group of dependencies names.

    Raises:
        SystemExit: A requirement has no lower bound, or two groups have unlike ones.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found: dict[str, str] = {}
    for requirement in (line for group in groups for line in group):
        bound = _BOUND.fullmatch(requirement)
        if bound is None:
            raise SystemExit(f"{requirement!r} has no lower bound: write NAME>=VERSION")
        if found.setdefault(bound["name"], bound["version"]) != bound["version"]:
            raise SystemExit(f"{bound['name']} has two lower bounds: give it one")
    # With the fixes of that release.
    return sorted(f"{name}=={version}.*" for name, version in found.items())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(lowest()) + "\n", encoding="utf-8")
