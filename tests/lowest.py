"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

`make test-lowest` runs the suite on them: a lower bound that nobody installs is a guess.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[.*\])?>=(?P<version>[\w.]+)")


def lowest(pyproject: Path = PYPROJECT) -> dict[str, str]:
    """Return the lower bound of each package that any dependency group names."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found: dict[str, str] = {}
    for requirement in (line for group in groups for line in group):
        bound = _BOUND.fullmatch(requirement)
        if bound is None:
            raise SystemExit(f"{requirement!r} has no lower bound: write NAME>=VERSION")
        if found.setdefault(bound["name"], bound["version"]) != bound["version"]:
            raise SystemExit(f"{bound['name']} has two lower bounds: give it one")
    return found


if __name__ == "__main__":
    for name, version in lowest().items():
        print(f"{name}=={version}.*")  # with the fixes of that release
