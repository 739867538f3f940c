"""Files of torch.save: all honest ones are read, all others refused by name."""

from __future__ import annotations

import argparse
import sys
import types
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlp_mixer import create_model, load

from ..small_files import WRITERS, refused, same, saved, state


def test_a_whole_network_is_refused_by_its_class(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    refused(
        path,
        "asks to run 'torch.nn.modules.linear.Linear'.* save only `model.state_dict\\(\\)`",
    )
    torch.save(create_model("mixer_nano4"), path)
    refused(path, "asks to run 'mlp_mixer.models.mixer.MlpMixer'")


def test_torchscript_is_code(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\..*` is", Warning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    refused(path, "is a TorchScript archive, which is code; save the state_dict")


@pytest.mark.parametrize(
    "options",
    [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}],
    ids=str,
)
def test_what_torch_saves_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    """Parameters, views of one storage, layouts, float dtypes, torch's formats."""
    tensors = state()
    path = tmp_path / "weights.pth"
    whole = torch.cat([tensor.flatten() for tensor in tensors.values()])
    parts = whole.split([tensor.numel() for tensor in tensors.values()])
    entwined = {
        name: part.view(tensors[name].shape)
        for name, part in zip(tensors, parts, strict=True)
    }
    entwined["head.weight"] = torch.nn.Parameter(
        entwined["head.weight"].T.contiguous().T
    )
    torch.save(OrderedDict(entwined), path, **options)
    same(load(path), tensors)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save(state(dtype=dtype), path, **options)
        same(load(path), state(dtype=dtype))


def test_the_checkpoint_of_timms_train_script(tmp_path: Path) -> None:
    """With all that timm's checkpoint_saver.py writes; the average is taken."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    training = {
        "epoch": 7,
        "arch": "mixer_s32_224",
        "state_dict": {name: tensor + 1 for name, tensor in state().items()},
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(
            lr=1e-3,
            data=Path("x"),
            device=torch.device("cpu"),
            sizes={1, 2},
            dtype=torch.half,
        ),
        "amp_scaler": {"scale": 65536.0, "_growth_tracker": 3},
        "lr_scheduler": {"milestones": Counter({10: 1}), "size": torch.Size([2])},
        "metric": np.float64(76.4),
    }
    path = tmp_path / "model_best.pth.tar"
    torch.save(training, path)
    checkpoint = load(path)
    same(checkpoint, training["state_dict"])
    assert checkpoint.provenance["notes"] == ["weights taken from state_dict"]
    torch.save(
        training
        | {
            "state_dict_ema": {
                f"module.{name}": tensor for name, tensor in state().items()
            }
        },
        path,
    )
    checkpoint = load(path)
    same(checkpoint, state())
    assert checkpoint.provenance["notes"] == [
        "weights taken from state_dict_ema, an average of those in 'state_dict'"
    ]


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes under mmengine's names, which are gone when `forget` was called."""

    class ConfigDict(dict):  # type: ignore[type-arg]
        pass

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.ones(5)
            self._count_history = np.arange(5)

    for kind, module in (
        (ConfigDict, "mmengine.config.config"),
        (HistoryBuffer, "mmengine.logging.history_buffer"),
    ):
        kind.__module__, kind.__qualname__ = module, kind.__name__
        parts = module.split(".")
        for depth in range(len(parts)):
            monkeypatch.setitem(
                sys.modules,
                ".".join(parts[: depth + 1]),
                types.ModuleType(parts[depth]),
            )
        setattr(sys.modules[module], kind.__name__, kind)
    return types.SimpleNamespace(
        ConfigDict=ConfigDict, HistoryBuffer=HistoryBuffer, forget=monkeypatch.undo
    )


def test_the_checkpoint_of_mmengine(
    tmp_path: Path, mmengine: types.SimpleNamespace
) -> None:
    path = tmp_path / "epoch_300.pth"
    classes = ("tench", "goldfish", "shark", "ray")
    torch.save(
        {
            "meta": {
                "cfg": mmengine.ConfigDict(a=mmengine.ConfigDict(b=1)),
                "dataset_meta": {"classes": classes},
            },
            "state_dict": state("mmpretrain"),
            "message_hub": {
                "log_scalars": {"train/loss": mmengine.HistoryBuffer()},
                "runtime_info": {"iter": 9},
            },
            "optimizer": {
                "state": {0: {"step": 3, "exp_avg": torch.ones(3)}},
                "param_groups": [{"params": [0]}],
            },
            "param_schedulers": [{"last_step": 1}],
        },
        path,
    )
    mmengine.forget()
    assert "mmengine" not in sys.modules
    assert load(path).labels == classes


OBJECTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (
        lambda: list(state().values()),
        "holds a value of type list, expected tensors by name",
    ),
    "a tensor": (lambda: torch.ones(3), "holds a tensor, expected tensors by name"),
    "a number": (lambda: 3, "holds a value of type int, expected tensors by name"),
    "nothing": (dict, "holds a value of type dict, expected tensors by name"),
    "wrapped nothing": (
        lambda: {"state_dict": {}},
        "holds a dict of 'state_dict' \\(a value of type dict\\)",
    ),
    "NumPy arrays": (
        lambda: {"w": np.ones(2)},
        "holds a dict of 'w' \\(an object of numpy\\), expected tensors by name",
    ),
    "a NumPy array": (
        lambda: state() | {"head.bias": np.ones(4)},
        "an object of numpy under the key 'head.bias'",
    ),
    "numbers as names": (
        lambda: {1: torch.ones(2)},
        "holds a dict of '<int>' \\(a tensor\\), expected tensors by name",
    ),
    "tuples as names": (
        lambda: {(1, 2): torch.ones(2)},
        "holds a dict of '<tuple>' \\(a tensor\\)",
    ),
    "a number in its place": (
        lambda: state() | {"norm.bias": 3},
        "a value of type int under the key 'norm.bias'",
    ),
    "expanded": (
        lambda: state() | {"head.bias": torch.ones(1).expand(2**33)},
        "'head.bias' as a view larger than its",
    ),
    "sparse": (
        lambda: state() | {"head.bias": torch.eye(4).to_sparse()},
        "holds a sparse, quantised, empty or unusual",
    ),
    "meta": (
        lambda: state() | {"head.bias": torch.ones(4, device="meta")},
        "holds a sparse, quantised, empty or unus",
    ),
    "unsigned": (
        lambda: state() | {"head.bias": torch.ones(4, dtype=torch.uint16)},
        "holds a sparse, quantised, empty",
    ),
    "float8": (
        lambda: state() | {"head.bias": torch.ones(4).to(torch.float8_e5m2)},
        "holds a sparse, quantised, emp",
    ),
    "conjugated": (
        lambda: (
            state() | {"head.bias": torch.ones(4, dtype=torch.complex64).conj().imag}
        ),
        "an object of torch under the key 'head.bias'",
    ),
    "complex": (
        lambda: state() | {"head.bias": torch.ones(4) * 1j},
        "stores head.bias as complex64, expected fp32",
    ),
    "int8": (
        lambda: state() | {"head.bias": torch.ones(4).char()},
        "stores head.bias as int8, expected fp32, fp16",
    ),
    "bool": (
        lambda: state() | {"head.bias": torch.ones(4) > 0},
        "stores head.bias as bool, expected fp32, fp16 or",
    ),
    "NaN": (
        lambda: state() | {"head.bias": torch.full((4,), torch.nan)},
        "NaN or infinite values in 1 of 42 tensors",
    ),
    "inf": (
        lambda: state() | {"norm.bias": torch.full((6,), -torch.inf)},
        "NaN or infinite .* first in norm.bias",
    ),
    "no numbers": (
        lambda: state() | {"head.bias": torch.ones(0)},
        "stores head.bias without any number",
    ),
    "a long name": (
        lambda: state() | {"x" * 5000: torch.ones(1)},
        "names a tensor 'x{80}', as no model does",
    ),
    "a name of two lines": (
        lambda: state() | {"a\nb\x1b[31m": torch.ones(1)},
        r"names a tensor 'a\\nb\\x1b\[31m'",
    ),
    "too many": (
        lambda: {str(i): torch.ones(1) for i in range(21_000)},
        "lists more than 20,000 (entries|members)",
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_state_dict_is_named(tmp_path: Path, name: str) -> None:
    build, message = OBJECTS[name]
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        (tmp_path / "weights.pth").write_bytes(saved(build(), **options))
        refused(tmp_path / "weights.pth", message)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
        torch.save(state() | {"head.bias": quantised}, tmp_path / "weights.pth")
    refused(
        tmp_path / "weights.pth", "holds quantised numbers .* before it is quantised"
    )


def test_a_truncated_file_of_torch_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for writer in ("zip", "legacy"):
        data = WRITERS[writer](
            {"head.bias": torch.ones(3), "head.weight": torch.ones(3, 2)}
        )
        for length in range(1, len(data), 1 if writer == "legacy" else 7):
            path.write_bytes(data[:length])
            refused(
                path,
                "is damaged and cannot be read|no file of weights, or its beginning is damaged",
            )
