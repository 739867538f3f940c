"""What a release needs beside the code: it is whole, and says what the code says."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import mlp_mixer

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def read_yaml(name: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def tool(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / name))


# Citation


def test_the_citation_names_the_software_and_the_paper() -> None:
    cited = read_yaml("CITATION.cff")
    # What the schema of version 1.2.0 asks for; cffconvert --validate accepts the file.
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    known = {"abstract", "keywords", "license", "preferred-citation", "type", "version"}
    assert cited.keys() <= known | {"cff-version", "message", "title", "authors"}
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == mlp_mixer.__version__
    assert cited["title"] == PROJECT["name"]
    assert cited["license"] == PROJECT["license"]
    assert cited["keywords"] == PROJECT["keywords"]
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert paper["title"] == "MLP-Mixer: An all-MLP Architecture for Vision"
    assert "2105.01601" in paper["url"]
    assert len(paper["authors"]) == 12
    assert all(a.keys() == {"family-names", "given-names"} for a in paper["authors"])
    assert paper["authors"][0]["family-names"] == "Tolstikhin"


# Continuous integration


def test_ci_runs_three_systems_every_python_and_the_lowest_pins() -> None:
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    systems = {system.partition("-")[0] for system in matrix["system"]}
    assert systems == {"ubuntu", "macos", "windows"}
    said = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == said == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={said[0]}"
    lowest = [row for row in matrix["include"] if row["pins"] == "lowest"]
    assert {row["system"] for row in lowest} == set(matrix["system"])
    assert {row["python"] for row in lowest} == {said[0]}


@pytest.mark.parametrize("name", ["ci", "publish"])
def test_what_the_workflows_run_exists(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    used = " ".join(re.findall(r"make ([a-z -]+)$", text, flags=re.M)).split()
    assert used
    assert set(used) <= targets
    for script in re.findall(r"python (tools/\w+\.py)", text):
        assert (ROOT / script).is_file()
    # Nothing may write to the repository, and no secret is needed.
    workflow = read_yaml(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text


def test_publishing_needs_no_token() -> None:
    workflow = read_yaml(".github/workflows/publish.yml")
    job = workflow["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"}
    assert job["environment"] == "pypi"
    assert any("pypi-publish" in step["uses"] for step in job["steps"])
    assert not any(
        "with" in step and "password" in step["with"] for step in job["steps"]
    )


@pytest.mark.parametrize("name", ["bug", "accuracy", "wish"])
def test_issue_forms_are_whole(name: str) -> None:
    form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in form["body"]} <= kinds
    assert len({part["id"] for part in asked}) == len(asked)
    assert any(part.get("validations", {}).get("required") for part in asked)
    assert all(part["attributes"]["label"] for part in asked)


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    lines = tool("lowest.py")["lowest"]()
    assert "torch==2.11.*" in lines
    assert len(lines) == len({line.partition("==")[0] for line in lines})
    for requirement in PROJECT["dependencies"]:
        assert requirement.replace(">=", "==") + ".*" in lines


@pytest.mark.parametrize(
    ("group", "said"),
    [(["torch"], "no lower bound"), (["torch>=2.12"], "two lower bounds")],
)
def test_a_bound_that_cannot_be_installed_is_found(
    group: list[str], said: str, tmp_path: Path
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        f"[project]\ndependencies = ['torch>=2.11']\n"
        f"[project.optional-dependencies]\nextra = {group}\n"
    )
    with pytest.raises(SystemExit, match=said):
        tool("lowest.py")["lowest"](project)


# Licences


def test_every_dependency_has_a_licence() -> None:
    licences = tool("licences.py")
    rows = licences["listed"]()
    missing = licences["direct"]().keys() - rows.keys()
    assert not missing, "run `python tools/licences.py`"
    assert all(said for said, _ in rows.values())


def test_the_list_of_licences_is_what_the_pinned_packages_say() -> None:
    pytest.importorskip("packaging")
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in PROJECT["dependencies"]:
        name = requirement.partition(">=")[0]
        if importlib.metadata.version(name) != pins[name]:
            pytest.skip(f"another version of {name} than in constraints.txt")
    assert tool("licences.py")["problems"]() == []


def test_a_dependency_without_a_row_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    licences = tool("licences.py")
    rows = licences["OUT"].read_text("utf-8").splitlines()
    short = tmp_path / "short.md"
    short.write_text("\n".join(row for row in rows if "| torch |" not in row))
    problems = licences["problems"]
    monkeypatch.setitem(problems.__globals__, "OUT", short)
    assert any(line.startswith("torch is missing") for line in problems())


# Distribution


def test_the_sdist_has_the_files_that_it_is_about() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    included = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["sdist"][
        "include"
    ]
    for name in included:
        assert (ROOT / name).exists(), name
    assert {"CITATION.cff", "THIRD_PARTY.md", "SECURITY.md", "LICENSE"} <= set(included)


def test_the_page_on_an_index_has_no_link_that_leads_nowhere() -> None:
    """The files that README links to are not there."""
    pytest.importorskip("hatch_fancy_pypi_readme")
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    core = ProjectMetadata(str(ROOT), PluginManager()).core
    assert core.readme_content_type == "text/markdown"
    source = (ROOT / "README.md").read_text("utf-8")
    links = re.compile(r"\]\(([^)]*)\)")
    left = links.findall(core.readme)
    assert left == [to for to in links.findall(source) if to.startswith(("http", "#"))]
    assert len(left) < len(links.findall(source))
    # Nothing else goes, and the words of a link stay.
    assert len(core.readme.splitlines()) == len(source.splitlines())
    assert "The documentation begins at `docs/start.md`;" in core.readme


def test_builds_that_differ_and_strangers_in_a_wheel_would_be_seen(
    tmp_path: Path,
) -> None:
    """`make dist-check` builds and installs, which takes a minute; here is what it tells."""
    check = tool("dist_check.py")
    files = []
    for folder, inside in (("a", "mlp_mixer/x.py"), ("b", "tests/x.py")):
        files.append(tmp_path / folder / "mlp_mixer_toolkit-1.0-py3-none-any.whl")
        files[-1].parent.mkdir()
        with zipfile.ZipFile(files[-1], "w") as archive:
            archive.writestr(inside, "")
    one, other = files
    check["same_bytes"]([one], [one])
    with pytest.raises(SystemExit, match="two builds of .* differ"):
        check["same_bytes"]([one], [other])
    check["nothing_else"](one)
    with pytest.raises(SystemExit, match=r"holds \['tests'\]"):
        check["nothing_else"](other)
    tracked = check["tracked"]()
    assert Path("pyproject.toml") in tracked
    assert not any(".git" in path.parts[:1] for path in tracked)


def test_no_address_is_invented() -> None:
    """Owners are named when there is one; the paper has an address already."""
    urls = PROJECT.get("urls", {})
    assert urls["Paper"].endswith("2105.01601")
    for name in ("CITATION.cff", "CODE_OF_CONDUCT.md", "pyproject.toml"):
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"OWNER|YOUR[-_ ]|example\.(com|org)", text), name
