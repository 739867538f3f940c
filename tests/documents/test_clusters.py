"""docs/clusters.md cannot run here: it is read, and compared with the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from mlp_mixer.cli import app
from mlp_mixer.recipes import list_recipes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


def options(verb: str) -> set[str]:
    command = typer.main.get_command(app)
    found = command.commands[verb]  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts}


def words_of_mixer(words: list[str]) -> list[str]:
    """The words from the verb on."""
    for start in ("mlp_mixer", "mlp-mixer"):
        if start in words:
            return words[words.index(start) + 1 :]
    return []


def manifests() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.M | re.S)
    return [part for block in blocks for part in yaml.safe_load_all(block)]


def commands() -> list[list[str]]:
    """All commands of the page, as words."""
    found = []
    for manifest in manifests():
        if manifest["kind"] == "TrainJob":
            found.append(manifest["spec"]["trainer"]["command"])
        if manifest["kind"] == "Job":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            command = container["command"]
            if command == ["sh", "-c"]:
                command = shlex.split(container["args"][0])
            found.append(command)
    for line in re.findall(r"^srun (?:.*\\\n)*.*$", PAGE, flags=re.M):
        found.append(shlex.split(line))
    return found


def test_every_command_has_options_that_exist() -> None:
    assert len(commands()) == 4
    for words in commands():
        verb, *rest = words_of_mixer(words)
        assert {word for word in rest if word.startswith("--")} <= options(verb), words
        assert "--resume" in rest
        if verb == "train":
            assert rest[0] in list_recipes()
        assert all(isinstance(word, str) for word in words)


def test_the_processes_meet_at_a_pod_that_exists() -> None:
    service, train, predict, _ = manifests()
    name = train["metadata"]["name"]
    assert service["metadata"]["name"] == name
    assert service["spec"]["selector"] == {"job-name": name}
    assert train["spec"]["template"]["spec"]["subdomain"] == name
    words = commands()[0]
    assert f"{name}-0.{name}:29500" in words
    assert words[words.index("--nnodes") + 1] == str(train["spec"]["completions"])
    gpus = train["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert words[words.index("--nproc-per-node") + 1] == str(gpus["nvidia.com/gpu"])
    for job in (train, predict):
        assert job["spec"]["completions"] == job["spec"]["parallelism"]
        assert job["spec"]["completionMode"] == "Indexed"
        pod = job["spec"]["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_there_are_as_many_parts_as_pods() -> None:
    _, _, predict, _ = manifests()
    count = predict["spec"]["completions"]
    text = predict["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert f"--part $((JOB_COMPLETION_INDEX + 1))/{count} " in text
    deploy = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for number in re.findall(r"SLURM_ARRAY_TASK_ID/(\d+)", deploy + PAGE):
        assert f"--array=1-{number}" in deploy
