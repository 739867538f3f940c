"""A figure of ours is verified when it is read: every flipped bit is found.

`MLP_MIXER_FLIPS=600` tries more of them.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import mlp_mixer
from mlp_mixer import UserError, load
from mlp_mixer.training.state import StateSaver, newest_state
from mlp_mixer.weights.seal import SUM, check_sum, sealed

# Bits anywhere in a file, and as many in its header.
FLIPS = int(os.environ.get("MLP_MIXER_FLIPS", "40"))


def tiny(**fields: int) -> mlp_mixer.MlpMixer:
    config = mlp_mixer.MixerConfig(2, 1, 4, 3, 5, image_size=(4, 4), **fields)
    model = mlp_mixer.MlpMixer(config)
    nn.init.normal_(model.head.weight)
    return model


def sealed_bytes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    return b"".join(sealed(tensors, metadata))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bits(data: bytes, flips: int) -> list[int]:
    """Bits anywhere in a file, and some of each of its parts."""
    rng = random.Random(0)
    length = 8 + int.from_bytes(data[:8], "little")
    anywhere = [rng.randrange(8 * len(data)) for _ in range(flips)]
    head = [rng.randrange(8 * length) for _ in range(flips)]
    key = 8 * data.index(SUM.encode())
    return [*anywhere, *head, *range(0, 64, 7), *range(key, key + 8 * 30, 9)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("w") / "m.safetensors"
    mlp_mixer.save(path, tiny(num_classes=3), labels=["cät", 'd"og', "c\\d"])
    return path.read_bytes()


def test_every_flipped_bit_of_a_checkpoint_is_found(written: bytes) -> None:
    for bit in bits(written, FLIPS):
        with pytest.raises(UserError):
            load(io.BytesIO(flipped(written, bit)))


def test_a_damaged_checkpoint_is_refused_in_one_sentence(
    tmp_path: Path, written: bytes
) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(flipped(written, 8 * len(written) - 9))
    message = r"best.safetensors' is damaged: its check sum .* copy it again"
    with pytest.raises(UserError, match=message):
        load(tmp_path)
    with pytest.raises(UserError, match=message):
        load(path, lineage="timm")


def test_flipped_bits_of_a_folder_for_hugging_face_are_found(tmp_path: Path) -> None:
    checkpoint = mlp_mixer.Checkpoint(tiny(num_classes=3), mlp_mixer.Preprocess((4, 4)))
    mlp_mixer.save_pretrained(checkpoint, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    load(tmp_path)
    for bit in bits(whole, FLIPS):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(UserError):
            load(tmp_path)


def test_the_file_is_everybodys(tmp_path: Path, written: bytes) -> None:
    """Others read the same tensors, and 0.1.0 its description under its own key."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(written)
    theirs = safetensors.torch.load_file(path)
    for name, tensor in load(path).model.state_dict().items():
        assert torch.equal(theirs[name], tensor)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert sorted(metadata) == ["mlp_mixer", SUM]
    assert json.loads(metadata["mlp_mixer"])["labels"] == ["cät", 'd"og', "c\\d"]
    # As 0.1.0 wrote it: no sum.
    old = {"mlp_mixer": metadata["mlp_mixer"]}
    safetensors.torch.save_file(theirs, path, old)
    assert load(path).labels == ("cät", 'd"og', "c\\d")


def test_equal_contents_give_equal_bytes() -> None:
    tensors = {
        "b": torch.arange(3),
        "a": torch.ones(2, 2).T.contiguous(),
        "c": torch.tensor(2.0).bfloat16(),
        "none": torch.empty(0, 4),
    }
    one = sealed_bytes(tensors, {"x": "1", "y": "2"})
    for _ in range(5):
        shuffled = dict(random.sample(list(tensors.items()), 4))
        assert sealed_bytes(shuffled, {"y": "2", "x": "1"}) == one
    read = safetensors.torch.load(one)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "a number": lambda t: t["a"].__setitem__(0, 2.0),
    "a name": lambda t: t.update(c=t.pop("b")),
    "a shape": lambda t: t.update(a=t["a"].reshape(4, 1)),
    "a dtype": lambda t: t.update(b=t["b"].view(torch.int32)),
    "one less": lambda t: t.pop("b"),
    "one more": lambda t: t.update(d=torch.empty(0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_part_counts(name: str) -> None:
    tensors = {"a": torch.ones(4), "b": torch.ones(3)}
    length = int.from_bytes(sealed_bytes(tensors, {"x": "1"})[:8], "little")
    header = json.loads(sealed_bytes(tensors, {"x": "1"})[8 : 8 + length])
    metadata = header["__metadata__"]
    check_sum(metadata, sorted(tensors.items()), "it")
    with pytest.raises(UserError, match="it is damaged"):
        check_sum(metadata | {"x": "2"}, sorted(tensors.items()), "it")
    CHANGES[name](tensors)
    with pytest.raises(UserError, match="it is damaged"):
        check_sum(metadata, sorted(tensors.items()), "it")


def saved_states(out: Path, *steps: int) -> list[Path]:
    network = nn.Linear(3, 2)
    saver = StateSaver(out)
    header = {"config": {}, "fingerprint": "", "best": None}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in steps:
        saver.save(header, step=step, modules={"model": network}, optimizer=optimizer)
    saver.wait()
    return sorted((out / "state").iterdir())


def test_a_damaged_state_gives_way_to_its_predecessor(tmp_path: Path) -> None:
    _, newest = saved_states(tmp_path, 1, 2)
    whole = newest.read_bytes()
    for bit in bits(whole, FLIPS):
        newest.write_bytes(flipped(whole, bit))
        state, complaints = newest_state(tmp_path)
        assert state is not None, bit
        assert state.step == 1, bit
        (complaint,) = complaints
        assert "step-000000002" in complaint
    newest.write_bytes(whole)
    state, complaints = newest_state(tmp_path)
    assert (state and state.step, complaints) == (2, [])


HEADERS = {
    "a step of text": '{"step": "3", "config": {}, "fingerprint": "", "best": null}',
    "a step below 0": '{"step": -3, "config": {}, "fingerprint": "", "best": null}',
    "true as a step": '{"step": true, "config": {}, "fingerprint": "", "best": null}',
    "a list as config": '{"step": 3, "config": [], "fingerprint": "", "best": null}',
    "no fingerprint": '{"step": 3, "config": {}, "best": null}',
    "odd skips": '{"step": 3, "config": {}, "fingerprint": "", "best": {}, '
    '"skipped": ["a"]}',
    "a deep one": "[" * 100_000,
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_strangers_state_is_a_sentence(tmp_path: Path, name: str) -> None:
    (path,) = saved_states(tmp_path, 1)
    metadata = {"mlp_mixer_state": HEADERS[name]}
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata)
    state, complaints = newest_state(tmp_path)
    assert state is None
    assert len(complaints) == 1
