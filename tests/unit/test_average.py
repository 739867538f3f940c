"""Averages of weights: exact on copies, refused for networks that differ, judged fairly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mlp_mixer as mm
from mlp_mixer import UserError
from mlp_mixer.api import soup
from mlp_mixer.cli import run
from mlp_mixer.data import open_dataset
from mlp_mixer.data.seen import SeenImages
from mlp_mixer.training.config import DataChoice
from mlp_mixer.training.splits import split_validation

SMALL = {
    "model.num_blocks": 1,
    "model.hidden_dim": 16,
    "model.tokens_mlp_dim": 8,
    "model.channels_mlp_dim": 32,
}
CPU = {"train.device": "cpu", "train.threads": 1, "train.ema": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A start, and two runs that go on from it with other seeds and rates."""
    place = tmp_path_factory.mktemp("runs")
    found = {"start": place / "start"}
    mm.train("digits", found["start"], epochs=3, settings=SMALL | CPU)
    first = found["start"] / "last.safetensors"
    for name, seed, drop in (("a", 1, 0.0), ("b", 2, 0.1)):
        found[name] = place / name
        more = {
            "train.seed": seed,
            "model.drop_path": drop,
            "train.epochs": 1,
            "optim.lr": 1e-3,
            "train.batch_size": 128,
        }
        mm.finetune(first, "digits", found[name], settings=CPU | more)
    return found


def weights(source: Path) -> dict[str, torch.Tensor]:
    return mm.load(source).model.state_dict()


def validation_top1(source: Path) -> tuple[float, int]:
    """Counted picture by picture."""
    _, images = split_validation(open_dataset("digits"), DataChoice())
    assert images is not None
    predictor = mm.Predictor(source, engine="plain")
    hits = 0
    for index in range(len(images)):
        answer = predictor(images.image(index))
        hits += answer.pred_label == images.labels[index]
    return hits / len(images), len(images)


def test_it_is_the_mean_of_the_best_checkpoints(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    sources = [runs["a"], runs["b"], runs["start"] / "last.safetensors"]
    done = mm.average(sources, tmp_path / "soup.safetensors")
    assert (done.used, done.top1, done.average_top1) == (
        tuple(map(str, sources)),
        {},
        None,
    )
    found = weights(done.path)
    parts = [weights(source) for source in sources]
    for name, tensor in found.items():
        expected = np.mean([part[name].double().numpy() for part in parts], axis=0)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-7)
    provenance = mm.load(done.path).provenance
    assert [part["name"] for part in provenance["averaged"]] == ["a", "b", "start"]
    assert str(tmp_path) not in json.dumps(provenance)
    # It finds the images that none of them has seen.
    assert mm.evaluate(done.path, "digits").split.startswith("test")


def test_copies_of_one_network_give_it_again(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    copies = []
    for number in range(3):
        copies.append(tmp_path / f"{number}.safetensors")
        copies[-1].write_bytes((runs["a"] / "best.safetensors").read_bytes())
    done = mm.average(copies, tmp_path / "soup.safetensors")
    found = weights(done.path)
    for name, tensor in weights(runs["a"]).items():
        assert torch.equal(found[name], tensor)


def test_half_precision_is_added_in_full(tmp_path: Path) -> None:
    """1 + 1/2048 + ... is lost in fp16, whose steps at 1 are 1/1024."""
    paths = []
    torch.manual_seed(0)
    model = mm.create_model("mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=8)
    for value in (1.0, 1.0, 1.0, 1 + 1 / 1024):
        half = mm.create_model("mixer_nano4", num_classes=2, num_blocks=1, hidden_dim=8)
        half.load_state_dict(model.state_dict())
        with torch.no_grad():
            half.head.bias.fill_(value)
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        mm.save(paths[-1], half.half())
    done = mm.average(paths, tmp_path / "soup.safetensors")
    bias = weights(done.path)["head.bias"]
    assert bias.tolist() == [1 + 1 / 4096] * 2


def test_it_is_judged_on_validation_images(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    told = {}
    done = mm.average(
        [runs["a"], runs["b"]],
        tmp_path / "soup.safetensors",
        data="digits",
        report=lambda name, result: told.update({name: result.top1}),
    )
    for name in ("a", "b"):
        expected, n = validation_top1(runs[name])
        assert done.top1[str(runs[name])] == pytest.approx(expected)
        assert done.n == n
    assert done.average_top1 == pytest.approx(validation_top1(done.path)[0])
    assert told == done.top1 | {"average": done.average_top1}
    measured = mm.load(done.path).provenance["measured"]
    assert (measured["top1"], measured["n"]) == (done.average_top1, done.n)


def test_greedy_takes_what_does_no_harm(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined = tmp_path / "ruined.safetensors"
    loaded = mm.load(runs["a"])
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    mm.save(
        ruined,
        loaded.model,
        preprocess=loaded.preprocess,
        labels=loaded.labels,
        provenance=loaded.provenance,
    )
    sources = [ruined, runs["b"], runs["a"]]
    out = tmp_path / "soup.safetensors"
    done = mm.average(sources, out, data="digits", greedy=True)
    assert str(ruined) not in done.used
    best = max(done.top1.values())
    assert done.average_top1 is not None
    assert done.average_top1 >= best
    # The uniform average is spoilt by it: greedy has a reason.
    uniform = mm.average(sources, out, data="digits", overwrite=True)
    assert uniform.average_top1 is not None
    assert uniform.average_top1 < best - 0.1


def changed(source: Path, out: Path, **changes: Any) -> Path:
    """The same checkpoint, with something else about it."""
    loaded = dataclasses.replace(mm.load(source), **changes)
    return mm.save(
        out,
        loaded.model,
        preprocess=loaded.preprocess,
        labels=loaded.labels,
        provenance=loaded.provenance,
    )


def test_networks_that_differ(runs: dict[str, Path], tmp_path: Path) -> None:
    a = runs["a"]
    own = mm.load(a)
    assert own.labels is not None
    wide = mm.create_model("mixer_pico2", num_classes=10, in_channels=1, image_size=8)
    others = {
        "channels_mlp_dim is 32 in the first and 256": {"model": wide},
        "class 0 is '0' in the first and '9' in": {"labels": own.labels[::-1]},
        "preprocess.mean is": {
            "preprocess": dataclasses.replace(own.preprocess, mean=(0.25,))
        },
        "the kind of head is softmax in the first and sigmoid": {
            "provenance": own.provenance | {"head": "sigmoid"}
        },
    }
    for sentence, changes in others.items():
        other = changed(a, tmp_path / "other.safetensors", **changes)
        with pytest.raises(UserError, match=sentence):
            mm.average([a, other], tmp_path / "soup.safetensors")
    assert not (tmp_path / "soup.safetensors").exists()


def test_what_cannot_be_judged_fairly(runs: dict[str, Path], tmp_path: Path) -> None:
    a = runs["a"]
    out = tmp_path / "soup.safetensors"
    origin = mm.load(a).provenance
    elsewhere = origin | {"data": origin["data"] | {"split_seed": 7}}
    other = changed(a, tmp_path / "other.safetensors", provenance=elsewhere)
    with pytest.raises(UserError, match="no images can evaluate all of these"):
        mm.average([a, other], out, data="digits")
    # What each has learnt from, their average has learnt from too.
    theirs = SeenImages(np.array([7], dtype=np.uint32))
    knowing = elsewhere | {"seen": theirs.to_json()}
    third = changed(a, tmp_path / "third.safetensors", provenance=knowing)
    united = SeenImages.from_provenance(
        mm.load(mm.average([a, third], out).path).provenance
    )
    own = SeenImages.from_provenance(origin)
    assert united is not None
    assert own is not None
    assert united.complete
    assert set(united.short_keys) == {7, *own.short_keys}
    del elsewhere["seen"]
    other = changed(a, other, provenance=elsewhere)
    with pytest.raises(UserError, match="have learnt from different images and do not"):
        mm.average([a, other], out, overwrite=True)
    out.unlink()
    foreign = mm.Dataset.from_arrays(
        np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 2, ["0", "1"]
    )
    with pytest.raises(UserError, match="learnt from other images than those of"):
        mm.average([a, runs["b"]], out, data=foreign)
    with pytest.raises(UserError, match="greedy chooses by validation images"):
        mm.average([a, runs["b"]], out, greedy=True)
    for few in ([a], [a, a]):
        with pytest.raises(UserError, match="of two different runs or more"):
            mm.average(few, out)
    # Of weights that say nothing of their data, an average says nothing either.
    silent = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for place in silent:
        changed(a, place, provenance={})
    assert "data" not in mm.load(mm.average(silent, out).path).provenance


def test_the_command(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soup.safetensors"
    command = ["average", str(runs["a"]), str(runs["b"]), "--out", str(out)]
    assert run(command) == 0
    assert "the average of" in capsys.readouterr().out
    before = out.read_bytes()
    assert run([*command, "--data", "digits"]) == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run([*command, "--data", "digits", "--overwrite"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": validation top-1")[0] for line in lines[:3]] == [
        str(runs["a"]),
        str(runs["b"]),
        "average",
    ]
    more = ["--data", "digits", "--greedy", "--overwrite", "--json"]
    assert run([*command, *more]) == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row["used"]) <= {str(runs["a"]), str(runs["b"])}
    assert row["n"] == validation_top1(out)[1]
    assert soup.Average(**row)
