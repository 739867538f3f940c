"""`mlp-mixer doctor` says what a maintainer would ask for."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest
import torch

from mlp_mixer import machine
from mlp_mixer._version import DISTRIBUTION
from mlp_mixer.cli import run

ROOT = Path(__file__).parents[2]


def call(*arguments: object) -> int:
    """Run the command and return its exit code."""
    return run([str(argument) for argument in arguments])


def test_it_names_versions_devices_caches_and_switches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "not" / "yet"
    monkeypatch.setenv("MLP_MIXER_CACHE", str(cache))
    monkeypatch.delenv("MLP_MIXER_OFFLINE", raising=False)
    assert call("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert (
        facts["libraries"]["datasets"] == "not installed"
        or facts["libraries"]["datasets"][0].isdigit()
    )
    assert str(torch.get_num_threads()) in facts["devices"]["cpu"]
    assert facts["caches"]["mlp_mixer"].startswith(f"{cache} (0.00 GB")
    assert facts["switches"]["MLP_MIXER_OFFLINE"] == "not set"
    (cache / "file").parent.mkdir(parents=True)
    (cache / "file").write_bytes(bytes(20_000_000))
    assert call("doctor") == 0
    assert "(0.02 GB" in capsys.readouterr().out


FAKE = """Metadata-Version: 2.1
Name: {name}
Version: {version}
"""


def install(site: Path, name: str, version: str, command: str = "") -> None:
    """Put the metadata of a package where Python looks for them."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(FAKE.format(name=name, version=version))
    (about / "RECORD").write_text("mlp_mixer/__init__.py,,\n")
    if command:
        (about / "entry_points.txt").write_text(
            f"[console_scripts]\nmlp-mixer = {command}\n"
        )


@pytest.mark.parametrize(
    ("packages", "beware"),
    [
        ([("mlp-mixer-toolkit", "1.0", "mlp_mixer.cli:main")], None),
        ([("mlp-mixer", "0.0.1", "")], "0.0.1 is another project's"),
        (
            [
                ("mlp-mixer-toolkit", "1.0", "mlp_mixer.cli:main"),
                ("mlp-mixer", "0.0.1", ""),
            ],
            "0.0.1 is another project's",
        ),
        ([("mlp-mixer", "0.1.0", "mlp_mixer.cli:main")], "under its former name"),
        ([("mlp-mixer", "3.0", "mlp_mixer.main:app")], "another project's"),
        ([("mlp-mixer-pytorch", "0.3.1", "")], None),
        ([], None),
    ],
)
def test_it_tells_of_a_package_with_our_import_name(
    packages: list[tuple[str, str, str]],
    beware: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name, version, command in packages:
        install(site, name, version, command)

    find = importlib.metadata.MetadataPathFinder.find_distributions

    class Here(importlib.metadata.MetadataPathFinder):
        @classmethod
        def find_distributions(cls, context: object = None) -> object:  # type: ignore[override]
            name = getattr(context, "name", None)
            inside = importlib.metadata.DistributionFinder.Context(
                name=name, path=[str(site)]
            )
            return find(inside)

    monkeypatch.setattr("sys.meta_path", [Here()])
    told = machine.another_package()
    as_what = machine.installed_as()
    monkeypatch.undo()
    if beware is None:
        assert told is None
    else:
        assert told is not None
        assert beware in told
        assert "pip uninstall mlp-mixer" in told
    has_ours = any(name == DISTRIBUTION for name, *_ in packages)
    assert (as_what == "mlp-mixer-toolkit 1.0") == has_ours
    monkeypatch.setattr(machine, "another_package", lambda: told)
    monkeypatch.setattr(machine, "installed_as", lambda: as_what)
    assert call("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)["system"]
    assert facts.get("beware") == told
    assert facts["installed as"] == as_what


def test_the_distribution_has_one_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == DISTRIBUTION
    # What is imported and what is typed stay.
    assert project["scripts"] == {"mlp-mixer": "mlp_mixer.cli:main"}
