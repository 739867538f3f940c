"""The network of a run: fresh, or from pretrained weights with a new head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mlp_mixer import UserError, create_model, load, save
from mlp_mixer.config import override
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.recipes import get_recipe
from mlp_mixer.training import TrainConfig, prepare, train
from mlp_mixer.training.config import ModelChoice
from mlp_mixer.weights.lineages.transforms import eval_preprocess


def pretrained(path: Path, blocks: int, **about: Any) -> Any:
    """Save a small network for three classes with a head that is not zero."""
    model = create_model(
        "mixer_pico2", num_classes=3, in_channels=1, num_blocks=blocks, hidden_dim=8
    )
    torch.nn.init.normal_(model.get_parameter("head.weight"))
    save(path, model, **about)
    return model


def from_weights(path: Path, *settings: str, **choice: Any) -> TrainConfig:
    config = override(get_recipe("digits"), ["train.device=cpu", *settings])
    return dataclasses.replace(config, model=ModelChoice(init=str(path), **choice))


def test_finetuning_keeps_what_the_weights_know_by_name(
    tmp_path: Path, noise: Any
) -> None:
    path = tmp_path / "old.safetensors"
    preprocess = Preprocess((8, 8), channels=1, crop_pct=0.9, resampler="opencv")
    labels = ["class 2", "owl", "class 0"]
    model = pretrained(path, 1, labels=labels, preprocess=preprocess)
    config = from_weights(path, drop_path=0.2)
    run = prepare(config, noise())
    assert run.preprocess == preprocess
    assert run.model.config.drop_path == 0.2
    head = run.model.get_parameter("head.weight")
    assert torch.equal(head[0], model.head.weight[2])
    assert torch.equal(head[2], model.head.weight[0])
    assert not head[1].any()
    assert run.notes == ("the head keeps 2 of 3 classes that the weights know by name",)


def test_of_several_networks_the_key_chooses(tmp_path: Path, noise: Any) -> None:
    networks = {}
    for role in ("student", "teacher"):
        model = pretrained(tmp_path / f"{role}.safetensors", 1)
        networks[role] = model.state_dict()
    path = tmp_path / "both.pth"
    torch.save(networks, path)
    run = prepare(from_weights(path, key="teacher"), noise())
    stem = run.model.state_dict()["stem.proj.weight"]
    assert torch.equal(stem, networks["teacher"]["stem.proj.weight"])
    with pytest.raises(UserError, match="holds several networks"):
        prepare(from_weights(path), noise())
    fresh = override(get_recipe("digits"), ["model.key=teacher"])
    with pytest.raises(UserError, match="chooses a network of the file at model.init"):
        prepare(fresh, noise())


@pytest.mark.parametrize("labels", [["class 2", "owl", "class 0"], ["owl"] * 3])
def test_a_head_of_zeros_is_asked_for(
    tmp_path: Path, noise: Any, labels: list[str]
) -> None:
    path = tmp_path / "old.safetensors"
    pretrained(path, 1, labels=labels, preprocess=Preprocess((8, 8), channels=1))
    run = prepare(from_weights(path, head="zero"), noise())
    assert not run.model.get_parameter("head.weight").any()
    assert not run.model.get_parameter("head.bias").any()
    assert run.notes == ("new head of zeros for 3 classes",)


@pytest.mark.parametrize("resampler", ["pillow", "big_vision", "opencv", "vit_jax"])
def test_finetuning_may_see_whole_images(
    resampler: Any, tmp_path: Path, noise: Any
) -> None:
    """As vit_jax, whatever the weights' own way; the checkpoint says so."""
    path = tmp_path / "old.safetensors"
    before = Preprocess(
        (8, 8),
        channels=1,
        crop_pct=0.5,
        mean=(0.3,),
        interpolation="bilinear",
        resampler=resampler,
    )
    pretrained(path, 1, preprocess=before)
    assert prepare(from_weights(path), noise()).preprocess == before
    run = prepare(from_weights(path, evaluation="whole"), noise())
    expected = eval_preprocess("vit_jax", (8, 8), 1)
    assert run.preprocess == dataclasses.replace(expected, mean=(0.3,))
    assert run.preprocess.seen(32, 20) == (0.0, 0.0, 1.0, 1.0)


def test_fresh_weights_have_no_way_to_change(noise: Any) -> None:
    config = override(
        get_recipe("digits"), ["train.device=cpu", "model.evaluation=whole"]
    )
    with pytest.raises(UserError, match="set preprocess.resize=resize and"):
        prepare(config, noise())


def test_biases_of_a_sigmoid_head_do_not_hide_the_classes_that_are_kept(
    tmp_path: Path, noise: Any
) -> None:
    """Beside zeros for the unknown class, biases of -8 would never be the answer."""
    path = tmp_path / "old.safetensors"
    model = create_model(
        "mixer_pico2", num_classes=3, in_channels=1, num_blocks=1, hidden_dim=8
    )
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-8.0, -9.0, -7.0]))
    for labels, expected in (
        (["class 2", "owl", "class 0"], [0.5, 0.0, -0.5]),
        # All classes are known: nothing stands beside them.
        (["class 2", "class 1", "class 0"], [-7.0, -9.0, -8.0]),
    ):
        save(path, model, labels=labels, preprocess=Preprocess((8, 8), channels=1))
        run = prepare(from_weights(path), noise())
        bias = run.model.get_parameter("head.bias")
        torch.testing.assert_close(bias, torch.tensor(expected))


def test_a_fitted_head_is_the_one_to_beat(tmp_path: Path, noise: Any) -> None:
    """At a senseless rate the run keeps what the linear probe had found."""
    path = tmp_path / "old.safetensors"
    pretrained(path, 1, preprocess=Preprocess((8, 8), channels=1))
    settings = ("optim.lr=50", "train.epochs=2", "data.val_fraction=0.3")
    config = from_weights(path, *settings, head="fitted")
    best = train(config, tmp_path / "run", source=noise(90))
    assert best["step"] == 0
    kept = load(tmp_path / "run").model
    assert torch.equal(
        kept.get_parameter("blocks.0.norm1.weight"),
        load(path).model.get_parameter("blocks.0.norm1.weight"),
    )
    assert kept.get_parameter("head.weight").any()
    with pytest.raises(UserError, match="head=fitted needs weights"):
        prepare(override(get_recipe("digits"), ["model.head=fitted"]), noise())


def test_the_weights_settle_the_architecture(tmp_path: Path, noise: Any) -> None:
    path = tmp_path / "old.safetensors"
    pretrained(path, 1, preprocess=Preprocess((8, 8), channels=1))
    with pytest.raises(UserError, match="model.num_blocks is settled by the weights"):
        prepare(from_weights(path, num_blocks=2), noise())


def test_finetuning_at_another_size_begins_with_the_answers_of_the_tiles(
    tmp_path: Path, noise: Any
) -> None:
    """The paper's App. C: twice the side gives the mean of four tiles, and every new
    weight can learn.
    """
    path = tmp_path / "old.safetensors"
    labels = ["class 0", "class 1", "class 2"]
    preprocess = Preprocess((8, 8), channels=1)
    model = pretrained(path, 2, labels=labels, preprocess=preprocess)
    config = from_weights(path, "train.steps=4", image_size=16)
    run = prepare(config, noise())
    assert run.preprocess.image_size == run.model.config.image_size == (16, 16)
    assert run.notes[0] == "weights resized from 8x8 to 16x16 (block_diagonal)"

    images = torch.randn(3, 1, 16, 16)
    answers = []
    for y in (0, 8):
        for x in (0, 8):
            answers.append(model(images[:, :, y : y + 8, x : x + 8]))
    mean = torch.stack(answers).mean(0)
    torch.testing.assert_close(run.model(images), mean, atol=1e-6, rtol=0)

    name = "blocks.0.mlp_tokens.fc1.weight"
    before = run.model.state_dict()[name].clone()
    train(config, tmp_path / "run", source=noise())
    learned = load(tmp_path / "run" / "last.safetensors").model.state_dict()[name]
    assert (learned[before == 0] != 0).any()


def test_a_size_that_is_not_a_multiple_needs_interpolation(
    tmp_path: Path, noise: Any
) -> None:
    path = tmp_path / "old.safetensors"
    pretrained(path, 1, preprocess=Preprocess((8, 8), channels=1))
    with pytest.raises(UserError, match="whole multiples of 8x8"):
        prepare(from_weights(path, image_size=12), noise())
    run = prepare(from_weights(path, image_size=12, resize="interpolate"), noise())
    assert run.model.config.grid == (6, 6)


def test_means_and_deviations_are_one_for_all_channels_or_one_for_each(
    noise: Any,
) -> None:
    config = override(get_recipe("digits"), ["preprocess.mean=0.1,0.2"])
    with pytest.raises(UserError, match=r"preprocess.mean has 2 numbers, and the"):
        prepare(config, noise())


def test_images_of_other_channels_are_refused(tmp_path: Path, noise: Any) -> None:
    path = tmp_path / "colour.safetensors"
    model = create_model("mixer_pico2", num_classes=3, in_channels=3, num_blocks=1)
    save(path, model)
    with pytest.raises(UserError, match="have 1 channels, these weights take 3"):
        prepare(from_weights(path), noise())
