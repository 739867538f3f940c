"""Write THIRD_PARTY.md: the licence of everything that an installation brings.

    python tools/licences.py            # writes it
    python tools/licences.py --check    # says what is missing from it

Licences are read from the packages that are installed here, with all that they need in
turn. The file keeps rows of packages that are not installed here: other systems need them.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "THIRD_PARTY.md"
HEAD = """\
# Licences of others

What `pip install` brings beside this package (Apache-2.0, [LICENSE](LICENSE)): direct dependencies, those of the
extras, and all that these need on Linux with a GPU (what the extras `cloud` and `datasets` need in turn is left out).
No file of theirs is part of this package. Written by `python tools/licences.py` from what the packages say of
themselves; a test compares it with pyproject.toml and with what is installed.

| package | licence | because of |
|---|---|---|
"""
# What classifiers and old metadata mean, as SPDX writes it.
_SPDX = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Other/Proprietary License": "proprietary",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "3-Clause BSD License": "BSD-3-Clause",
}
# Not installed where this was run, or silent about it; read from their pages on the index.
_KNOWN = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "datasets": "Apache-2.0",
    "gcsfs": "BSD-3-Clause",
    "s3fs": "BSD-3-Clause",
}


def canonical(name: str) -> str:
    """Return the name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def direct() -> dict[str, set[str]]:
    """Return the direct dependencies, each with the extras that want it ("" for all)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    wanted: dict[str, set[str]] = {}
    for extra, requirements in groups.items():
        # Nobody installs the tools of development to use the package.
        if extra in ("dev", "quality"):
            continue
        for requirement in requirements:
            name = canonical(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])
            wanted.setdefault(name, set()).add(extra)
    return wanted


def needed(name: str) -> Iterator[str]:
    """Yield what an installed package needs here, without its extras."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        extras = requirement.extras or {""}
        environment = {"extra": ""}
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield canonical(requirement.name)
            # torch wants nvidia's libraries by an extra of a package of its own.
            yield from _of_extras(canonical(requirement.name), extras)


def _of_extras(name: str, extras: set[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None:
            continue
        if any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield canonical(requirement.name)


def closure() -> dict[str, str]:
    """Return every package, and because of which one it comes."""
    found = {}
    for name, extras in sorted(direct().items()):
        found[name] = "" if "" in extras else f"extra {', '.join(sorted(extras))}"
    waiting = list(found)
    while waiting:
        name = waiting.pop(0)
        for other in sorted(set(needed(name))):
            if other not in found:
                found[other] = name
                waiting.append(other)
    return found


def licence(name: str) -> str:
    """Return what an installed package says of its licence, "" if it is not here."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return _KNOWN.get(name, "")
    if expression := about.get("License-Expression"):
        return _SPDX.get(expression, expression)
    for classifier in about.get_all("Classifier") or []:
        kind, _, last = classifier.rpartition(" :: ")
        if kind.startswith("License"):
            return _SPDX.get(last, last)
    # Some put the whole text into the field.
    first = (about.get("License") or "").strip().partition("\n")[0]
    return _SPDX.get(first, first) or _KNOWN.get(name, "")


def listed() -> dict[str, tuple[str, str]]:
    """Return the rows of the file: licence and reason by package."""
    rows = {}
    if OUT.exists():
        for line in OUT.read_text("utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == 3 and cells[0] not in ("package", "---"):
                rows[cells[0]] = (cells[1], cells[2])
    return rows


def problems() -> list[str]:
    """Return what the file lacks, or says otherwise than the packages."""
    rows = listed()
    told = []
    for name in closure():
        said = licence(name)
        if name not in rows:
            told.append(f"{name} is missing")
        elif said and rows[name][0] != said:
            told.append(f"{name} is {said} here, and {rows[name][0]} in the list")
    told += [f"{name} has no licence" for name, (said, _) in rows.items() if not said]
    return told


def main() -> int:
    """Write the file, or check it."""
    if "--check" in sys.argv[1:]:
        told = problems()
        print("\n".join(told) or f"{OUT.name} is complete")
        return 1 if told else 0
    rows = listed()
    for name, reason in closure().items():
        said = licence(name) or rows.get(name, ("", ""))[0]
        rows[name] = (said, reason)
    lines = [
        f"| {name} | {said} | {why} |\n" for name, (said, why) in sorted(rows.items())
    ]
    OUT.write_text(HEAD + "".join(lines), encoding="utf-8")
    print(f"{len(rows)} packages in {OUT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
