"""Write the lowest version of each dependency, as pip's constraints.

    python tools/lowest.py lowest.txt && pip install -c lowest.txt -e .

pyproject.toml says `torch>=2.11`; a test with the newest versions does not show that 2.11
is enough.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")


def lowest() -> list[str]:
    """Return a line for each dependency, those of the extras for users included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        # Tools of development are used as they are today.
        if extra != "dev":
            wanted += requirements
    lines = set()
    for requirement in wanted:
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise SystemExit(
                f"no lowest version in {requirement!r}: expected NAME>=VERSION"
            )
        lines.add(f"{found[1]}=={found[2]}")
    return sorted(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(lowest()) + "\n", encoding="utf-8")
