"""The network is found wherever it lies in a file; between several nobody guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import prune

from mlp_mixer import UserError, load
from mlp_mixer.weights.convert import convert

from .small_files import arrays, refused, same, state

Tensors = Mapping[str, Tensor]


def before(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def other() -> dict[str, Tensor]:
    """The same network at another step of its training."""
    return {name: tensor + 1 for name, tensor in state().items()}


def within_blocks(wrapper: str) -> dict[str, Tensor]:
    return {
        name.replace("blocks.1.", f"blocks.1.{wrapper}."): tensor
        for name, tensor in state().items()
    }


def counted() -> dict[str, Tensor]:
    """What thop leaves in every module."""
    counters = {}
    for name in ["", *{name.rpartition(".")[0] + "." for name in state()}]:
        counters[f"{name}total_ops"] = torch.zeros(1, dtype=torch.float64)
        counters[f"{name}total_params"] = torch.zeros(1, dtype=torch.float64)
    return state() | counters


ONE = torch.ones(1)
COUNT = torch.tensor(3)

# What a file holds; all of them hold the tensors of `state()` as the network.
WRAPPED: dict[str, Callable[[], dict[str, Any]]] = {
    "the tutorial": lambda: {
        "epoch": 3,
        "model_state_dict": state(),
        "optimizer_state_dict": {"state": {0: {"exp_avg": ONE}}, "param_groups": []},
        "loss": 0.3,
    },
    "AveragedModel": lambda: {"n_averaged": COUNT, **before("module.", state())},
    "mmengine": lambda: {
        "state_dict": other(),
        "ema_state_dict": {"steps": COUNT, **before("module.", state())},
    },
    "mmengine, broken average": lambda: {
        "state_dict": state(),
        "ema_state_dict": {"steps": COUNT, "module.head.bias": torch.ones(4)},
    },
    "an average that is not finite": lambda: {
        "model": state(),
        "ema": state() | {"norm.bias": torch.full((6,), torch.nan)},
    },
    "net.": lambda: {"state_dict": before("net.", state())},
    "backbone.": lambda: {"state_dict": before("backbone.", state())},
    "a.b.c.": lambda: before("a.b.c.", state()),
    "class weights": lambda: {
        "state_dict": before("model.", state())
        | {"criterion.pos_weight": torch.ones(4)}
    },
    "class weights inside": lambda: state() | {"criterion.pos_weight": torch.ones(4)},
    "metrics": lambda: {
        "state_dict": before("model.", state())
        | {"val_acc.tp": torch.zeros(4, dtype=torch.int64), "class_weights": ONE}
    },
    "metrics inside": lambda: state() | {"val_acc.tp": torch.zeros(4).long()},
    "a number beside": lambda: state() | {"epoch": 3},
    "DeepSpeed": lambda: {"module": state(), "ds_version": "0.1"},
    "Lightning on DeepSpeed": lambda: before("_forward_module.model.", state()),
    "FSDP": lambda: before("_fsdp_wrapped_module.", state()),
    "FSDP inside": lambda: within_blocks("_fsdp_wrapped_module"),
    "activation checkpointing": lambda: within_blocks("_checkpoint_wrapped_module"),
    "compiled blocks": lambda: within_blocks("_orig_mod"),
    "compiled and parallel": lambda: before("module._orig_mod.", state()),
    "parallel blocks": lambda: within_blocks("module"),
    "Opacus": lambda: before("_module.", state()),
    "ema-pytorch": lambda: {
        "initted": torch.tensor(True),
        "step": COUNT,
        **before("online_model.", other()),
        **before("ema_model.", state()),
    },
    "ema of a backbone": lambda: {
        **before("backbone.", other()),
        **before("ema_model.backbone.", state()),
    },
    "Lightning's WeightAveraging": lambda: {
        "state_dict": before("model.", state()),
        "current_model_state": before("model.", other()),
        "averaging_state": {"n_averaged": COUNT},
    },
    "Lightning's callbacks": lambda: {
        "state_dict": before("model.", state()),
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}": {
                "best_model_score": ONE,
                "best_k_models": {f"/home/me/{'run/' * 60}1.ckpt": ONE, "a\nb": ONE},
            }
        },
        "optimizer_states": [{"state": {0: {"exp_avg": ONE}}}],
        "loops": {"fit_loop": {"state_dict": {}, "epoch": {"done": 3}}},
    },
    "fastai": lambda: {"model": state(), "opt": {"state": [{"grad_avg": ONE}]}},
    "behind a layer that normalises": lambda: {
        "0.mean": torch.ones(3),
        **before("1.", state()),
    },
    "a student of another network": lambda: {
        **before("student.", state()),
        "teacher.conv1.weight": torch.ones(2, 3, 7, 7),
        "teacher.fc.weight": torch.ones(4, 2),
    },
    "SWA": lambda: {
        "state_dict": other(),
        "swa_state_dict": {"n_averaged": COUNT, **before("module.", state())},
    },
    "ema": lambda: {"ema": state()},
    "weights": lambda: {"weights": state()},
    "network": lambda: {"network": state()},
    "five dicts": lambda: {"a": {"b": {"c": {"d": {"e": state()}}}}},
    "a list": lambda: {"models": [state()]},
    "one network twice": lambda: {"model": state(), "state_dict": state()},
    "thop": counted,
    "pruned": lambda: (
        {name: t for name, t in state().items() if name != "head.weight"}
        | {
            "head.weight_orig": state()["head.weight"],
            "head.weight_mask": torch.ones(4, 6),
        }
    ),
    "timm's own wrapper in a dict": lambda: {"model": before("timm_model.", state())},
    "the dict of a dict that holds itself": lambda: _circle(),
}


def _circle() -> dict[str, Any]:
    outer: dict[str, Any] = {"weights": state()}
    outer["self"] = outer
    return outer


@pytest.mark.parametrize("name", WRAPPED)
def test_the_network_is_found_under_any_wrapper(tmp_path: Path, name: str) -> None:
    torch.save(WRAPPED[name](), tmp_path / "w.pth")
    same(load(tmp_path / "w.pth"), state())
    same(load(WRAPPED[name]()), state())


LINEAGES_WRAPPED = {
    "mmpretrain": "model.",
    "lucidrains": "net.",
    "lavish619": "module.",
    "jeonsworld": "student.module.",
    "rishikksh20": "_orig_mod.",
}


@pytest.mark.parametrize("lineage", LINEAGES_WRAPPED)
def test_every_lineage_is_found(tmp_path: Path, lineage: str) -> None:
    plain = load(state(lineage)).model.state_dict()
    beside = {"criterion.weight": torch.ones(4), "optimizer.step": COUNT}
    wrapped = before(LINEAGES_WRAPPED[lineage], state(lineage)) | beside
    save_file(wrapped, tmp_path / "w.safetensors")
    checkpoint = load(tmp_path / "w.safetensors")
    same(checkpoint, plain)
    assert checkpoint.provenance["lineage"] == lineage
    said = " ".join(checkpoint.provenance["notes"])
    assert "1 tensor beside left out: criterion.weight" in said


def test_googles_arrays_are_found_under_any_prefix(tmp_path: Path) -> None:
    plain = load(arrays()).model.state_dict()
    for prefix in ("params/", "opt/target/", "params/params/", "state/ema_params/"):
        moments = {f"opt/state/0/mu/{name}": array for name, array in arrays().items()}
        named = {prefix + name: array for name, array in arrays().items()}
        np.savez(tmp_path / "w.npz", **named, **moments)
        same(load(tmp_path / "w.npz"), plain)


def notes(weights: Any, **options: Any) -> list[str]:
    return list(load(weights, **options).provenance.get("notes", []))


def test_what_is_chosen_and_left_out_is_said() -> None:
    assert notes(state()) == []
    assert notes(before("module.", state())) == []
    beside = {"criterion.pos_weight": ONE, "val_acc.tp": COUNT}
    assert notes({"state_dict": before("net.", state()) | beside}) == [
        "weights taken from state_dict.net",
        "2 tensors beside left out: criterion.pos_weight, val_acc.tp",
    ]
    (average,) = notes({"state_dict": other(), "state_dict_ema": state()})
    assert average.endswith("state_dict_ema, an average of those in 'state_dict'")
    broken = state() | {"norm.bias": torch.full((6,), torch.nan)}
    taken, passed = notes({"model": state(), "ema": broken})
    assert taken == "weights taken from model"
    assert passed.startswith("'ema' was passed over: holds NaN or infinite values in 1")
    headless = {name: t for name, t in state().items() if "head" not in name}
    classifier = {"classifier.weight": torch.ones(9, 6)}
    assert notes(before("backbone.", headless) | classifier)[-1] == (
        "1 tensor beside left out: classifier.weight"
    )


PAIRS = {
    "student and teacher": ("student", "teacher"),
    "a teacher that is an average": ("student", "teacher_ema"),
    "two attributes": ("net_a", "net_b"),
    "online and target": ("online_encoder", "target_encoder"),
    "two averages": ("ema", "swa"),
    "MoCo": ("encoder_q", "encoder_k"),
    "a teacher beside": ("state_dict", "teacher_state_dict"),
    "best and last": ("state_dict", "best_state_dict"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_between_two_networks_a_person_chooses(tmp_path: Path, name: str) -> None:
    one, two = PAIRS[name]
    path = tmp_path / "w.pth"
    torch.save({one: state(), two: other()}, path)
    message = refused(path, "holds several networks, in .*; choose one with --key")
    assert repr(one) in message
    assert repr(two) in message
    same(load(path, key=one), state())
    same(load(path, key=two), other())
    flat = before(f"{one}.module.", state()) | before(f"{two}.module.", other())
    same(load(flat, key=two), other())
    with pytest.raises(UserError, match="no network at 'third'; there is one at"):
        load(path, key="third")


def test_an_average_is_preferred_to_its_own_network_only() -> None:
    teacher = {name: tensor + 2 for name, tensor in state().items()}
    three = {"student": other(), "student_ema": state(), "teacher": teacher}
    with pytest.raises(UserError, match="'student' and 'student_ema' and 'teacher'"):
        load(three)
    same(load({"student": other(), "student_ema": state()}), state())
    # One that an average cannot be of: it has other classes.
    larger = state() | {"head.weight": torch.ones(9, 6), "head.bias": torch.ones(9)}
    with pytest.raises(UserError, match="'model' and 'ema'"):
        load({"model": larger, "ema": state()})


def test_a_key_may_be_a_part_of_the_place() -> None:
    nested = {"state_dict": before("a.net.", state()) | before("b.net.", other())}
    for key in ("b", "b.net", "state_dict.b.net", "state_dict/b"):
        same(load(nested, key=key), other())
    with pytest.raises(UserError, match=r"'state_dict.a.net' and 'state_dict.b.net'"):
        load(nested, key="net")


def test_convert_takes_a_key(tmp_path: Path) -> None:
    torch.save({"student": state(), "teacher": other()}, tmp_path / "w.pth")
    convert(tmp_path / "w.pth", tmp_path / "t.safetensors", "native", key="teacher")
    same(load(tmp_path / "t.safetensors"), other())
    with pytest.raises(UserError, match="holds one network: leave the key 'student'"):
        load(tmp_path / "t.safetensors", key="student")


def test_pruned_weights_are_multiplied_as_torch_does() -> None:
    model = load(state()).model
    prune.l1_unstructured(model.head, "weight", amount=0.5)
    prune.random_unstructured(model.blocks[0].norm1, "bias", 0.3)
    pruned = load(model.state_dict())
    prune.remove(model.head, "weight")
    prune.remove(model.blocks[0].norm1, "bias")
    same(pruned, model.state_dict())
    assert "2 tensors multiplied by the masks of pruning" in pruned.provenance["notes"]


def parametrised() -> dict[str, Tensor]:
    model = load(state()).model
    torch.nn.utils.parametrizations.weight_norm(model.head)
    return model.state_dict()


IN_PIECES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "weight norm": (parametrised, "remove_parametrizations"),
    "old weight norm": (
        lambda: state() | {"head.weight_g": torch.ones(4, 1)},
        "remove_weight_norm",
    ),
    "spectral norm": (
        lambda: state() | {"head.weight_orig": torch.ones(4, 6)},
        "remove_spectral_norm",
    ),
    "adapters": (
        lambda: (
            before("base_model.model.", state())
            | {"base_model.model.head.lora_A.default.weight": torch.ones(2, 6)}
        ),
        "merge_and_unload",
    ),
    "quantised": (
        lambda: state() | {"head.zero_point": COUNT, "head.scale": ONE},
        "before it is quantised",
    ),
    "a cut network": (
        lambda: {
            name: tensor
            for name, tensor in state().items()
            if not name.startswith(("norm.", "head."))
        },
        "lacks the norm behind the last block .* features_only",
    ),
    "another mask": (
        lambda: state() | {"x.weight_mask": ONE, "x.weight_orig": torch.ones(2)},
        "prunes x.weight_orig .* by a mask of another shape",
    ),
    "a part that computes": (
        lambda: state() | {"pos_embed": torch.ones(16, 6)},
        "unexpected pos_embed",
    ),
}


@pytest.mark.parametrize("name", IN_PIECES)
def test_tensors_in_pieces_are_named_with_the_call_that_helps(name: str) -> None:
    build, message = IN_PIECES[name]
    with pytest.raises(UserError, match=message):
        load(build())


@pytest.mark.parametrize(
    ("values", "guess"),
    [(16, "1 channels of 4x4"), (48, "3 channels of 4x4"), (36, "1 channels of 6x6")],
)
def test_other_numbers_of_values_are_guessed_and_said(values: int, guess: str) -> None:
    tensors = state("lucidrains")
    stem = next(name for name, tensor in tensors.items() if tensor.shape[1:] == (12,))
    tensors[stem] = torch.ones(len(tensors[stem]), values)
    (said,) = notes(tensors)
    assert said.startswith(f"guessed: the {values} values of a patch are {guess} ")


def test_a_guess_is_said() -> None:
    (guess,) = notes(state("lucidrains"))
    assert guess.startswith("guessed: the 12 values of a patch are 3 channels of 2x2 ")
    assert notes(state("lucidrains"), image_size=8) == []
