"""Files that are damaged, foreign or traps: each is refused in one sentence of its own,
and nothing in it runs.
"""

from __future__ import annotations

import argparse
import builtins
import dataclasses
import functools
import gzip
import io
import json
import operator
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import types
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from mlp_mixer import (
    Checkpoint,
    MixerConfig,
    MlpMixer,
    UserError,
    create_model,
    load,
    save,
)
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES

CONFIG = MixerConfig(2, 3, 6, 5, 7, image_size=(8, 8), num_classes=4, gelu="erf")
LONG = 2**31 - 1


def state(
    name_of_lineage: str = "timm", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A small Mixer's tensors under a lineage's names."""
    lineage = LINEAGES[name_of_lineage]
    config = dataclasses.replace(CONFIG, final_norm=lineage.final_norm)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        name: tensor.shape for name, tensor in MlpMixer(config).state_dict().items()
    }
    ours = {
        name: torch.randn(shape, generator=generator) * 0.3
        for name, shape in shapes.items()
    }
    if name_of_lineage == "keras":
        ours |= {
            name.replace("norm1", "norm2"): tensor
            for name, tensor in ours.items()
            if "norm1" in name
        }
    return {
        name: tensor.to(dtype)
        for name, tensor in translate.to_theirs(config, ours, lineage).items()
    }


def arrays(lineage: str = "google") -> dict[str, Any]:
    """As `state`, for NumPy."""
    return {name: tensor.numpy() for name, tensor in state(lineage).items()}


def refused(path: Path, message: str | None = None) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 2500
    return sentence


def same(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """The network holds these tensors (timm's names)."""
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, tensors[name].float()), name


# ----------------------------------------------------------------------------------------------------------
# pickles


class Trap:
    """Something whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def traps(marker: Path) -> dict[str, Trap]:
    """The name that is refused -> what would leave a file behind (or could, with more
    effort).
    """
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": Trap(os.system, f"touch {marker}"),
        "subprocess.Popen": Trap(subprocess.Popen, ["touch", str(marker)]),
        "subprocess.check_call": Trap(subprocess.check_call, ["touch", str(marker)]),
        "builtins.eval": Trap(eval, code),
        "builtins.exec": Trap(exec, code),
        "builtins.getattr": Trap(getattr, Trap(builtins.__import__, "os"), "system"),
        "builtins.__import__": Trap(builtins.__import__, "antigravity"),
        "functools.partial": Trap(functools.partial, os.system, f"touch {marker}"),
        "io.open": Trap(io.open, str(marker), "w"),
        "operator.methodcaller": Trap(operator.methodcaller, "touch"),
        "torch.hub.load": Trap(torch.hub.load, "owner/name", "model"),
        "torch.serialization.load": Trap(torch.load, str(marker)),
        "torch.storage._load_from_bytes": Trap(
            torch.storage._load_from_bytes, b"bytes"
        ),
        "numpy.load": Trap(np.load, str(marker)),
        "torch._utils._import_dotted_name": Trap(
            torch._utils._import_dotted_name, "antigravity.fly"
        ),
    }


WRITERS: dict[str, Callable[[Any], bytes]] = {
    "zip": lambda value: saved(value),
    "legacy": lambda value: saved(value, _use_new_zipfile_serialization=False),
    "protocol 4": lambda value: saved(value, pickle_protocol=4),
    "pickle": lambda value: pickle.dumps(value, protocol=5),
}


def saved(value: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", traps(Path()))
def test_no_code_from_a_pickle_runs(tmp_path: Path, name: str, writer: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "weights.pth"
    trap = traps(marker)[name]
    weights = (
        {} if writer == "pickle" else state()
    )  # a tensor in a plain pickle is a call, too
    for place, value in {
        "the file": trap,
        "a weight": weights | {"head.bias": trap},
        "beside the weights": {"state_dict": weights, "args": trap},
        "inside": {"state_dict": weights, "optimizer": {"state": [{"x": (1, trap)}]}},
    }.items():
        path.write_bytes(WRITERS[writer](value))
        module = (
            "(commands|subprocess)"
            if name.startswith("subprocess")
            else name.partition(".")[0]
        )
        assert "nothing was run" in refused(
            path, f"asks to run '(builtins.getattr|{module}[.].*)'"
        ), place
        assert not marker.exists(), place


def test_the_traps_are_real(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(traps(marker)["posix.system"]))
    assert marker.exists()


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
    """Parameters, views of one storage, other layouts and every float dtype, in each of
    torch's formats.
    """
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
    """With everything `timm/utils/checkpoint_saver.py` writes; the average of the
    weights is taken.
    """
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
    assert checkpoint.provenance["notes"] == ["weights taken from state_dict_ema"]


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
        "a tensor under the key '<int>', expected only tensors by name",
    ),
    "tuples as names": (
        lambda: {(1, 2): torch.ones(2)},
        "a tensor under the key '<tuple>'",
    ),
    "a number beside": (
        lambda: state() | {"epoch": 3},
        "a value of type int under the key 'epoch'",
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
        "lists more than 20,000 entries",
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
        tmp_path / "weights.pth", "holds a sparse, quantised, empty or unusual tensor"
    )


def zipped(opcodes: bytes, members: dict[str, bytes] | None = None) -> bytes:
    """An archive as torch.save writes it, around a pickle (protocol 2) written by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + opcodes)
        for name, data in (members or {}).items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def text(value: str) -> bytes:
    """The opcode for a str."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tensor(
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    shape: str = "K\x04\x85",
    strides: str = "K\x01\x85",
) -> bytes:
    """The opcodes for a float tensor; shape and strides are opcodes too."""
    storage = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", numel)
    )
    view = (
        b"J"
        + struct.pack("<i", offset)
        + shape.encode("latin1")
        + strides.encode("latin1")
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + view + b"\x89}tR"


def holding(*values: bytes) -> bytes:
    """The opcodes for a dict of these values under the names w0, w1, ..."""
    return (
        b"}("
        + b"".join(text(f"w{i}") + value for i, value in enumerate(values))
        + b"u."
    )


FLOATS = np.ones(4, np.float32).tobytes()
ONE = {"data/0": FLOATS}
HUGE = "\x8a\x09" + "\xff" * 8 + "\x00"  # 2^64 - 1
PICKLES: dict[str, tuple[bytes, str]] = {
    "sound": (
        zipped(holding(tensor()), ONE),
        "is no MLP-Mixer checkpoint of any known lineage .* w0;",
    ),
    "no storage": (
        zipped(holding(tensor())),
        "is damaged and cannot be read .*archive/data/0",
    ),
    "short storage": (
        zipped(holding(tensor()), {"data/0": FLOATS[:8]}),
        "the storage '0' is not as long as stated",
    ),
    "long storage": (
        zipped(holding(tensor()), {"data/0": FLOATS * 2}),
        "the storage '0' is not as long as stated",
    ),
    "storage in two ways": (
        zipped(holding(tensor(), tensor(numel=2, shape="K\x02\x85")), ONE),
        "the storage '0' is described in two ways",
    ),
    "offset": (
        zipped(holding(tensor(offset=1)), ONE),
        "'w0' as a view larger than its data",
    ),
    "negative offset": (
        zipped(holding(tensor(offset=-1)), ONE),
        "'w0' has no sensible shape",
    ),
    "strides": (
        zipped(holding(tensor(strides="K\x02\x85")), ONE),
        "'w0' as a view larger than its data",
    ),
    "no strides": (
        zipped(holding(tensor(strides=")")), ONE),
        "is damaged and cannot be read",
    ),
    "negative shape": (
        zipped(holding(tensor(shape="J\xff\xff\xff\xff\x85")), ONE),
        "no sensible shape",
    ),
    "huge shape": (
        zipped(holding(tensor(shape=f"{HUGE}\x85")), ONE),
        "'w0' has no sensible shape",
    ),
    "a shape of text": (
        zipped(holding(tensor(shape="X\x01\x00\x00\x00a\x85")), ONE),
        "no sensible shape",
    ),
    "many axes": (
        zipped(holding(tensor(shape="(" + "K\x01" * 99 + "t")), ONE),
        "'w0' has no sensible shape",
    ),
    "an odd storage": (zipped(holding(b"NQ")), "is damaged and cannot be read"),
    "a storage of dicts": (
        zipped(b"(K\x01cargparse\nNamespace\nK\x01K\x01K\x01tQ."),
        "no sensible name or length",
    ),
    "a call of a number": (zipped(b"K\x01)R."), "is damaged and cannot be read"),
    "no arguments": (
        zipped(b"ctorch._utils\n_rebuild_tensor_v2\n)R."),
        "is damaged and cannot be read",
    ),
    "an empty stack": (zipped(b"."), "is damaged and cannot be read"),
    "no mark": (zipped(b"t."), "is damaged and cannot be read"),
    "an absent memo": (zipped(b"h\x07."), "is damaged and cannot be read"),
    "a huge memo": (zipped(b"Nr\xff\xff\xff\xff."), "holds a value of type NoneType"),
    "cut off": (zipped(b"}q"), "is damaged and cannot be read"),
    "no opcode": (zipped(b"\xff."), "is damaged and cannot be read"),
    "an instance": (
        zipped(b"(ios\nsystem\n."),
        "is damaged and cannot be read .*torch.save writes no INST",
    ),
    "an extension": (zipped(b"\x82\x01."), "holds a value of type int"),
    "text without end": (
        zipped(b"X\xff\xff\xff\x7fabc"),
        "is damaged and cannot be read|more memory than there is",
    ),
    "a long name": (
        zipped(b"cos\n" + b"x" * 10**6 + b"\n."),
        "asks to run 'os.x{117}', which is neither",
    ),
    "an odd name": (zipped(b"cos\n\x1b[31m\n."), r"asks to run 'os\.\\x1b\[31m"),
    "state of a stand-in": (
        zipped(b"cargparse\nNamespace\n)\x81}b."),
        "holds an object of argparse, expected tensors",
    ),
    "items of a stand-in": (
        zipped(b"cargparse\nNamespace\n)R(NNu."),
        "holds an object of argparse, expected tensors",
    ),
    "state of a dict": (
        zipped(
            b"ccollections\nOrderedDict\n)R}"
            + text("values")
            + b"cargparse\nNamespace\nsb."
        ),
        "holds a value of type dict",
    ),
    "names of a thousand lists": (
        zipped(
            b"}"
            + text("meta")
            + b"}"
            + text("CLASSES")
            + b"]"
            + b"q\x00(h\x00h\x00e" * 99
            + b"ss."
        ),
        "holds a dict of 'meta'",
    ),
    "two pickles": (
        zipped(holding(tensor()), ONE).replace(b"data.pkl", b"data.pk!"),
        "is a zip archive, but",
    ),
    "big-endian": (
        zipped(holding(tensor()), ONE | {"byteorder": b"big"}),
        "was saved by a big-endian machine",
    ),
    "another pickle": (pickle.dumps({"a": 1}), "is a pickle, but none of torch.save"),
    "only the magic number": (
        saved({}, _use_new_zipfile_serialization=False)[:20],
        "is damaged and cannot be read",
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_by_hand(tmp_path: Path, name: str) -> None:
    data, message = PICKLES[name]
    (tmp_path / "weights.pt").write_bytes(data)
    refused(tmp_path / "weights.pt", message)


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


# --------------------------------------------------------------------------------------------------------------
# npz


def npy(array: Any, version: tuple[int, int] | None = None, **header: Any) -> bytes:
    """An array as NumPy writes it; `header` fields are written in place of the true
    ones.
    """
    buffer = io.BytesIO()
    if header:
        fields = {
            "descr": array.dtype.str,
            "fortran_order": False,
            "shape": array.shape,
        } | header
        line = (str(fields) + " " * 20 + "\n").encode()
        return (
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + array.tobytes()
        )
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def npz(path: Path, members: dict[str, Any], **options: Any) -> Path:
    """An archive of arrays, or of whatever bytes."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, member in members.items():
            archive.writestr(
                f"{name}.npy", member if isinstance(member, bytes) else npy(member)
            )
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda array: npy(np.asfortranarray(array)),
        lambda array: npy(array.astype(array.dtype.newbyteorder(">"))),
        lambda array: npy(np.asfortranarray(array.astype(">f8"))),
        lambda array: npy(array, (2, 0)),
        lambda array: npy(array, (3, 0)),
        lambda array: npy(
            torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view("V2")
        ),
        lambda array: npy(array.astype(np.float16)),
    ],
    ids=[
        "Fortran",
        "big-endian",
        "big-endian Fortran doubles",
        "2.0",
        "3.0",
        "bfloat16",
        "float16",
    ],
)
@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED],
    ids=["stored", "deflated"],
)
def test_npz_of_every_honest_kind_is_read(
    tmp_path: Path, write: Any, compression: int
) -> None:
    rounded = {
        name: torch.from_numpy(array).bfloat16().half().float().numpy()
        for name, array in arrays().items()
    }
    path = npz(
        tmp_path / "m.npz",
        {name: write(array) for name, array in rounded.items()},
        compression=compression,
    )
    same(load(path), load(npz(tmp_path / "plain.npz", rounded)).model.state_dict())


BIAS = np.ones(4, np.float32)
MEMBERS: dict[str, tuple[Any, str]] = {
    "objects": (
        lambda: npy(np.array([1, None])),
        "'head/bias.npy' holds Python objects, .* they could run code",
    ),
    "a trap": (
        lambda: npy(np.array([Trap(os.system, "false")])),
        "holds Python objects, which are not read",
    ),
    "too many": (
        lambda: npy(BIAS, shape=(5,)),
        r"'head/bias.npy' claims the shape \(5,\) of float32, which is not what",
    ),
    "too few": (lambda: npy(BIAS, shape=(3,)), r"claims the shape \(3,\) of float32"),
    "negative": (
        lambda: npy(BIAS, shape=(-4,)),
        r"claims the shape \(-4,\) of float32",
    ),
    "both negative": (
        lambda: npy(BIAS, shape=(-2, -2)),
        r"claims the shape \(-2, -2\) of float32",
    ),
    "huge": (
        lambda: npy(BIAS, shape=(2**62, 2**62)),
        "of float32, which is not what follows: damaged, refused",
    ),
    "no shape": (
        lambda: npy(BIAS, shape="(4,)"),
        "damaged and cannot be read .*shape is not valid",
    ),
    "long shape": (lambda: npy(BIAS, shape=(1,) * 99), "damaged"),
    "long header": (lambda: npy(BIAS, shape=(1,) * 9999), "damaged and cannot be read"),
    "code": (
        lambda: npy(BIAS, descr="__import__('os').system('false')"),
        "damaged and cannot be read",
    ),
    "structure": (
        lambda: npy(np.zeros(4, "f4,f4")),
        "holds .*'f0', '<f4'.*, expected numbers",
    ),
    "an array of arrays": (lambda: npy(BIAS, descr="(2,2)f4", shape=(1,)), "damaged"),
    "text": (lambda: npy(np.array(list("abcd"))), "holds <U1, expected numbers"),
    "dates": (
        lambda: npy(np.zeros(4, "M8[s]")),
        r"holds datetime64\[s\], expected numbers",
    ),
    "long doubles": (
        lambda: npy(np.zeros(4, np.longdouble)),
        "holds float128, expected numbers",
    ),
    "integers": (
        lambda: npy(np.zeros(4, np.int32)),
        "stores head/bias as int32, expected fp32, fp16 or bf16",
    ),
    "NaN": (
        lambda: npy(BIAS * np.nan),
        "NaN or infinite values in 1 of 42 tensors, first in head/bias",
    ),
    "a number": (lambda: npy(BIAS[0]), r"head/bias is \(\), expected 1 axes"),
    "no numbers": (lambda: npy(BIAS[:0]), "stores head/bias without any number"),
    "nothing": (lambda: b"", "damaged and cannot be read"),
    "no npy": (lambda: b"\x89PNG\r\n", "damaged and cannot be read .*magic string"),
    "version 9": (
        lambda: npy(BIAS).replace(b"NUMPY\x01", b"NUMPY\x09"),
        "damaged and cannot be read",
    ),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_an_array_that_lies(tmp_path: Path, name: str) -> None:
    build, message = MEMBERS[name]
    refused(npz(tmp_path / "m.npz", arrays() | {"head/bias": build()}), message)


ARCHIVES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "an extra key": (
        lambda: arrays() | {"extra": BIAS},
        "looks like a google checkpoint but .*: unexpected extra",
    ),
    "a missing key": (
        lambda: {
            name: array for name, array in arrays().items() if name != "head/bias"
        },
        "looks like a google checkpoint but does not fit: missing head/bias",
    ),
    "a ViT": (
        lambda: {
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": np.ones(
                (6, 2, 3), np.float32
            ),
            "Transformer/posembed_input/pos_embedding": np.ones((1, 5, 6), np.float32),
            "cls": np.ones((1, 1, 6), np.float32),
        },
        "holds a Vision Transformer, not an MLP-Mixer",
    ),
    "a ResNet": (
        lambda: {
            "resnet/block1/unit01/a/standardized_conv2d/kernel": np.ones(
                (1, 1, 2, 2), np.float32
            )
        },
        r"holds a ResNet \(BiT\), not an MLP-Mixer",
    ),
    "digits": (
        lambda: {"images": np.ones((2, 8, 8)), "labels": np.ones(2)},
        "no MLP-Mixer checkpoint of any known",
    ),
    "outside names": (
        lambda: {"../../outside": BIAS, "/absolute": BIAS},
        "its tensors are ../../outside, /absolute;",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_npz_of_something_else(tmp_path: Path, name: str) -> None:
    build, message = ARCHIVES[name]
    refused(npz(tmp_path / "m.npz", build()), message)
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_other_zips(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path)
    refused(path, "is no file of weights")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.jpg", b"\xff\xd8\xff")
    refused(
        path,
        "is a zip archive, but none that torch, NumPy or Keras wrote; give a file of weights",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(2):
                archive.writestr("head/bias.npy", npy(BIAS))
    refused(path, "holds two members of one name: it is damaged or a trap, refused")
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20_001):
            archive.writestr(f"{i}.npy", b"")
    refused(path, "lists more than 20,000 entries")
    npz(path, arrays(), compression=zipfile.ZIP_BZIP2)
    refused(path, "is compressed in an unusual way")
    data = npz(path, arrays()).read_bytes()
    path.write_bytes(data.replace(arrays()["head/bias"].tobytes(), bytes(16)))
    refused(path, "damaged and cannot be read .*Bad CRC-32 for file 'head/bias.npy'")
    path.write_bytes(
        data.replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
        )
    )
    refused(path, "damaged and cannot be read .*encrypted")
    for length in (4, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path, "damaged")


# ------------------------------------------------------------------------------------------------------
# safetensors


def header(
    tensors: dict[str, Any], data: bytes = b"", *, length: int | None = None
) -> bytes:
    """A safetensors file with this header."""
    line = json.dumps(tensors).encode()
    return struct.pack("<Q", len(line) if length is None else length) + line + data


def entry(
    start: int, end: int, shape: tuple[int, ...] = (4,), dtype: str = "F32"
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "longer than the file": (
        lambda: header({}, length=10**6),
        "no readable safetensors header",
    ),
    "of no length": (lambda: header({}, length=0), "damaged and cannot be read"),
    "of 2^64 bytes": (
        lambda: header({}, length=2**64 - 1),
        "no readable safetensors header",
    ),
    "of 33 MB": (
        lambda: header({"x" * 33_000_000: 1}),
        r"has a header of 33,000,\d\d\d bytes, at most 4,194,304 are",
    ),
    "of 30,000 empty tensors": (
        lambda: header({str(i): entry(0, 0, (0,)) for i in range(30_000)}),
        "lists more than 20,000 entries",
    ),
    "without tensors": (
        lambda: header({"__metadata__": {"a": "b"}}),
        "holds no tensors",
    ),
    "of an empty dict": (lambda: header({}), "holds no tensors"),
    "that is cut off": (
        lambda: header({"a": entry(0, 16)}, BIAS.tobytes())[:30],
        "no readable safetensors header",
    ),
    "that is no JSON": (
        lambda: struct.pack("<Q", 4) + b"{abc",
        "damaged and cannot be read .*header",
    ),
    "deeply nested": (
        lambda: struct.pack("<Q", 10**6) + b"{" + b'"a":{' * 199_999 + b"    ",
        "damaged and cannot be",
    ),
    "overlap": (
        lambda: header({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)),
        "damaged and cannot be read",
    ),
    "a gap": (
        lambda: header({"a": entry(0, 16), "b": entry(24, 40)}, bytes(40)),
        "damaged and cannot be read",
    ),
    "out of range": (
        lambda: header({"a": entry(0, 16)}, bytes(8)),
        "damaged and cannot be read",
    ),
    "more than is named": (
        lambda: header({"a": entry(0, 16)}, bytes(24)),
        "damaged and cannot be read",
    ),
    "backwards": (
        lambda: header({"a": entry(16, 0)}, bytes(16)),
        "damaged and cannot be read",
    ),
    "a wrong shape": (
        lambda: header({"a": entry(0, 16, (5,))}, bytes(16)),
        "damaged and cannot be read",
    ),
    "a huge shape": (
        lambda: header({"a": entry(0, 16, (2**63, 2**63))}, bytes(16)),
        "damaged and cannot be read",
    ),
    "an unknown dtype": (
        lambda: header({"a": entry(0, 16, (4,), "X32")}, bytes(16)),
        "damaged and cannot be read",
    ),
    "8-bit numbers": (
        lambda: safetensors.torch.save(
            state() | {"head.bias": torch.ones(4).to(torch.float8_e4m3fn)}
        ),
        "stores head.bias as float8_e4m3fn, expected fp32, fp16 or bf16",
    ),
    "integers": (
        lambda: safetensors.torch.save(state() | {"head.bias": torch.ones(4).long()}),
        "stores head.bias as int64, expected fp32, fp16 or bf16",
    ),
    "odd names": (
        lambda: header({"a\n": entry(0, 16)}, bytes(16)),
        r"names a tensor 'a\\n', as no model does",
    ),
    "names of half a letter": (
        lambda: header({"\ud800": entry(0, 16)}, bytes(16)),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_header_that_lies(tmp_path: Path, name: str) -> None:
    build, message = HEADERS[name]
    (tmp_path / "m.safetensors").write_bytes(build())
    refused(tmp_path / "m.safetensors", message)


DESCRIPTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no JSON": (lambda d: "{", "damaged: its description is no JSON"),
    "a list": (lambda d: [d], "damaged: its description is .*, expected a JSON object"),
    "nothing": (
        lambda d: None,
        "damaged: its description is None, expected a JSON object",
    ),
    "a deep list": (lambda d: "[" * 100_000, "damaged"),
    "a number too long": (lambda d: '{"a": ' + "1" * 5000 + "}", "damaged"),
    "no version": (
        lambda d: d.pop("format_version") and d,
        "has checkpoint format None",
    ),
    "another version": (
        lambda d: d | {"format_version": [1]},
        r"has checkpoint format \[1\]",
    ),
    "many blocks": (
        lambda d: d["config"].update(num_blocks=10**9) or d,
        "does not fit its architecture: 1000000000 blocks",
    ),
    "wide": (
        lambda d: d["config"].update(hidden_dim=10**9) or d,
        r"does not fit .*expected \(1000000000,",
    ),
    "too wide": (
        lambda d: d["config"].update(hidden_dim=10**10) or d,
        "has a broken description|does not fit",
    ),
    "beyond numbers": (
        lambda d: d["config"].update(hidden_dim=10**30) or d,
        "has a broken description",
    ),
    "a large image": (
        lambda d: d["config"].update(image_size=[4 * 10**9] * 2) or d,
        "has a broken description|not fit",
    ),
    "a large patch": (
        lambda d: d["config"].update(patch_size=10**9, image_size=[10**9] * 2) or d,
        "has a broken description|does not fit",
    ),
    "many classes": (
        lambda d: d["config"].update(num_classes=10**12) or d,
        "does not fit its architecture: head",
    ),
    "endless epsilon": (
        lambda d: d["config"].update(norm_eps=10**400) or d,
        "has a broken description",
    ),
    "labels": (
        lambda d: d | {"labels": ["a"]},
        "has a broken description: 1 labels for 2 classes",
    ),
    "no labels": (lambda d: d | {"labels": 3}, "has a broken description"),
    "text as mean": (
        lambda d: d["preprocess"].update(mean=["a"]) or d,
        "has a broken description",
    ),
    "a mean beyond numbers": (
        lambda d: d["preprocess"].update(mean=[10**400]) or d,
        "has a broken description",
    ),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_native_description_that_lies(tmp_path: Path, name: str) -> None:
    change, message = DESCRIPTIONS[name]
    path = save(
        tmp_path / "m.safetensors",
        create_model("mixer_nano4", num_classes=2, num_blocks=1),
    )
    with safetensors.safe_open(path, "pt") as file:
        described = change(json.loads(file.metadata()["mlp_mixer"]))
    tensors = safetensors.torch.load_file(path)
    text = described if isinstance(described, str) else json.dumps(described)
    path.write_bytes(safetensors.torch.save(tensors, {"mlp_mixer": text}))
    refused(path, message)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, torch.nan]), "NaN or infinite values in 1 of .* head.bias"),
        (
            torch.tensor([1.0, torch.inf], dtype=torch.float16),
            "NaN or infinite values in 1 of .* head.bias",
        ),
        (
            torch.ones(2, dtype=torch.int64),
            "stores head.bias as int64, expected fp32, fp16 or bf16",
        ),
    ],
    ids=["NaN", "inf", "int64"],
)
def test_native_numbers_are_checked_too(
    tmp_path: Path, tensor: Tensor, message: str
) -> None:
    path = save(
        tmp_path / "m.safetensors",
        create_model("mixer_nano4", num_classes=2, num_blocks=1),
    )
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    path.write_bytes(
        safetensors.torch.save(
            safetensors.torch.load_file(path) | {"head.bias": tensor}, metadata
        )
    )
    refused(path, message)


# -------------------------------------------------------------------------------------------------------------
# HDF5


def h5(
    path: Path, change: Callable[[h5py.File], Any] | None = None, **options: Any
) -> Path:
    """A file of Keras with a change."""
    with h5py.File(path, "w", **options) as file:
        for name, array in arrays("keras").items():
            file[name] = array
        if change:
            change(file)
    return path


BIAS_PATH = "layers/dense_1/vars/1"
Change = Callable[[h5py.File], Any]


def replaced(data: Any = None, **options: Any) -> Change:
    """Another array in the place of the last one."""

    def change(file: h5py.File) -> None:
        del file[BIAS_PATH]
        file.create_dataset(BIAS_PATH, data=data, **options)

    return change


def virtual(file: h5py.File) -> None:
    del file[BIAS_PATH]
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(4,))
    file.create_virtual_dataset(BIAS_PATH, layout)


def linked(link: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[BIAS_PATH]
        file[BIAS_PATH] = link

    return change


def cyclic(file: h5py.File) -> None:
    file["layers/dense/inside"] = file["layers"]


def braided(file: h5py.File) -> None:
    """2^30 paths to one group."""
    group = file.create_group("last")
    for i in range(30):
        outer = file.create_group(f"group{i}")
        outer["left"] = outer["right"] = group
        group = outer


def crowded(file: h5py.File) -> None:
    for i in range(20_000):
        file.create_group(f"group{i}", track_order=False)


def overfull(file: h5py.File) -> None:
    """A chunk of 16 bytes that inflates to a megabyte."""
    replaced(shape=(4,), chunks=(4,), dtype="f4", compression="gzip")(file)
    file[BIAS_PATH].id.write_direct_chunk((0,), zlib.compress(bytes(2**20)))


TREES: dict[str, tuple[Change, str]] = {
    "a soft link": (
        linked(h5py.SoftLink("/layers/dense/vars/1")),
        f"links '{BIAS_PATH}' to elsewhere; only data insid",
    ),
    "a dangling link": (
        linked(h5py.SoftLink("/nowhere")),
        f"links '{BIAS_PATH}' to elsewhere",
    ),
    "an external link": (
        linked(h5py.ExternalLink("/etc/passwd", "/")),
        f"links '{BIAS_PATH}' to elsewhere",
    ),
    "a virtual array": (
        virtual,
        f"keeps '{BIAS_PATH}' compressed or in another file; save it plainly",
    ),
    "external storage": (
        replaced(shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]),
        f"keeps '{BIAS_PATH}' compressed or in another file",
    ),
    "gzip": (
        replaced(np.ones(4, np.float32), chunks=(4,), compression="gzip"),
        "compressed or in another file",
    ),
    "a gzip bomb": (overfull, f"keeps '{BIAS_PATH}' compressed or in another file"),
    "a filter": (
        replaced(np.ones(4, np.float32), chunks=(4,), fletcher32=True),
        "compressed or in another file",
    ),
    "an unknown filter": (
        replaced(
            shape=(4,),
            dtype="f4",
            chunks=(4,),
            compression=32123,
            allow_unknown_filter=True,
        ),
        "compressed or in another file",
    ),
    "itself": (cyclic, "nests deeper than any model does: damaged or a trap, refused"),
    "a braid": (braided, "nests deeper|lists more than 20,000 entries"),
    "a crowd": (crowded, "lists more than 20,000 entries, as no Mixer does"),
    "no data": (
        replaced(shape=(2**40,), dtype="f4"),
        r"bytes but claims to hold 4,398,\d\d\d,\d\d\d,\d\d\d: it is dam",
    ),
    "sizes beyond numbers": (
        replaced(shape=(2**32, 2**32), dtype="f4"),
        r"but claims to hold 73,786,976,294,838,\d\d\d",
    ),
    "text": (replaced(["a", "b", "c", "d"]), f"missing {BIAS_PATH}"),
    "a structure": (replaced(np.zeros(4, "f4,f4")), f"missing {BIAS_PATH}"),
    "references": (replaced([None] * 4, dtype=h5py.ref_dtype), f"missing {BIAS_PATH}"),
    "empty": (replaced(h5py.Empty("f4")), "holds object, expected numbers"),
    "no numbers": (
        replaced(np.zeros(0, np.float32)),
        f"stores {BIAS_PATH} without any number",
    ),
    "integers": (
        replaced(np.zeros(4, np.int32)),
        f"stores {BIAS_PATH} as int32, expected fp32",
    ),
    "long doubles": (
        replaced(np.zeros(4, np.longdouble)),
        f"{BIAS_PATH}' holds float128, expected numbers",
    ),
    "NaN": (
        replaced(np.full(4, np.nan)),
        f"NaN or infinite values in 1 of .* {BIAS_PATH}",
    ),
    "a group": (
        lambda file: linked(file["layers"])(file),
        "nests deeper than any model does",
    ),
    "a ResNet": (
        lambda file: [
            file.pop("layers"),
            file.create_dataset(
                "layers/conv2d/vars/0", data=np.ones((3, 3, 3, 4), "f4")
            ),
        ],
        "holds a convolutional network of Keras, such as a ResNet, not an MLP-Mixer",
    ),
    "an old ResNet": (
        lambda file: file.create_group("model_weights/conv1_conv"),
        "is Keras's old kind of .h5 file",
    ),
    "nothing": (lambda file: file.pop("layers"), "holds no tensors"),
    "odd names": (
        lambda file: file.create_dataset("layers/a\x1b[31m", data=np.ones(1, "f4")),
        r"names a tensor .*x1b",
    ),
}


@pytest.mark.parametrize("kind", ["h5", "keras"])
@pytest.mark.parametrize("name", TREES)
def test_an_hdf5_tree_that_lies(tmp_path: Path, name: str, kind: str) -> None:
    change, message = TREES[name]
    path = h5(tmp_path / "m.weights.h5", change)
    if kind == "keras":
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            archive.writestr(
                "config.json",
                '{"module": "os", "class_name": "system", "config": "false"}',
            )
            archive.write(path, "model.weights.h5")
        path = tmp_path / "m.keras"
    refused(path, message)


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f2"])
def test_hdf5_of_every_honest_dtype_is_read(tmp_path: Path, dtype: str) -> None:
    def change(file: h5py.File) -> None:
        replaced(np.arange(4).astype(dtype))(file)

    assert load(h5(tmp_path / "m.h5", change)).model.head.bias.tolist() == [0, 1, 2, 3]


def test_a_truncated_hdf5_file_is_refused(tmp_path: Path) -> None:
    data = h5(tmp_path / "m.h5").read_bytes()
    for length in (*range(8, 600, 31), len(data) // 2, len(data) - 1):
        (tmp_path / "m.h5").write_bytes(data[:length])
        refused(tmp_path / "m.h5", "damaged and cannot be read")


# ----------------------------------------------------------------------------------------------------------
# folders


def sharded(folder: Path, weight_map: Any, **config: Any) -> Path:
    """A folder with two shards, this index and this `config.json`."""
    first = dict(list(state().items())[:9])
    second = dict(list(state().items())[9:])
    safetensors.torch.save_file(first, folder / "1.safetensors")
    safetensors.torch.save_file(second, folder / "2.safetensors")
    if weight_map == "true":
        weight_map = dict.fromkeys(first, "1.safetensors") | dict.fromkeys(
            second, "2.safetensors"
        )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "has no weight_map of tensor names to files"),
        ([], "has no weight_map of tensor names to files"),
        ({"a": 1}, "has no weight_map of tensor names to files"),
        ({"a": ["x"]}, "has no weight_map of tensor names to files"),
        ({}, "lacks|no tensors|known lineage"),
        ({"a": "../x"}, r"points to '\.\./x', outside its folder: refused"),
        ({"a": "/etc/passwd"}, "points to '/etc/passwd', outside its folder: refused"),
        ({"a": "b/x"}, "points to 'b/x', outside its folder: refused"),
        ({"a": ".."}, r"lacks the shard '\.\.' that its index names"),
        ({"a": ""}, "lacks the shard '' that its index names"),
        ({"a": "x" * 5000}, "lacks the shard 'x{60}"),
        ({"a": "\0"}, r"lacks the shard '\\x00' that its index names"),
        ({"a": "\ud800"}, "lacks the shard '.*' that its index names"),
        (
            {"a": "3.safetensors"},
            "lacks the shard '3.safetensors' that its index names",
        ),
        ({"a": "config.json"}, "is no file of weights"),
        ({"a": "1.safetensors"}, "the shards in .* lack a, which their index names"),
        (
            {"a\n": "1.safetensors"},
            r"the shards in .* lack a\\n, which their index names",
        ),
        ({"stem.proj.bias": "1.safetensors"}, "does not fit: missing"),
    ],
    ids=str,
)
def test_an_index_that_lies(tmp_path: Path, weight_map: Any, message: str) -> None:
    refused(sharded(tmp_path, weight_map), message)


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    folder = sharded(tmp_path / "snapshot", "true")
    for shard in ("1.safetensors", "2.safetensors"):
        (folder / shard).rename(tmp_path / "blobs" / shard)
        (folder / shard).symlink_to(tmp_path / "blobs" / shard)
    same(load(folder), state())
    (tmp_path / "blobs" / "1.safetensors").unlink()
    refused(folder, "no checkpoint at .*1.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_args": {"img_size": -8}}, ""),
        ({"model_args": {"img_size": [8, "8"]}}, ""),
        ({"model_args": {"img_size": [8, -8]}}, ""),
        (
            {"model_args": {"img_size": 10**400}},
            "was made for 16 patches of 2 pixels, and 1000",
        ),
        ({"model_args": []}, ""),
        ({"pretrained_cfg": 3}, ""),
        ({"pretrained_cfg": {"input_size": 5}}, ""),
        ({"pretrained_cfg": {"input_size": [3, 8, None]}}, ""),
        ({"pretrained_cfg": {"crop_pct": 10**400}}, ""),
        ({"pretrained_cfg": {"crop_pct": float("nan")}}, ""),
        (
            {"pretrained_cfg": {"crop_pct": -1}},
            "crop_pct is -1.0: expected a part above 0",
        ),
        (
            {"pretrained_cfg": {"mean": [10**400]}},
            "mean in config.json is .*, expected a list of numbers",
        ),
        (
            {"pretrained_cfg": {"std": [[[[0]]]]}},
            "std in config.json is .*, expected a list of numbers",
        ),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "std is .*: expected numbers above 0"),
        (
            {"pretrained_cfg": {"interpolation": ["bicubic"]}},
            "unknown interpolation in config.json .*bicubic",
        ),
        (
            {"pretrained_cfg": {"interpolation": "x" * 10**6}},
            "unknown interpolation in config.json 'xxx",
        ),
        (
            {"pretrained_cfg": {"interpolation": {"\n": 1}}},
            "unknown interpolation in config.json",
        ),
        ({"id2label": {"²": "a", "x": "b", "1" * 5000: "c"}}, ""),
        ({"id2label": 3}, ""),
        ({"label_names": [[["a"]], "b", "c", "d"]}, ""),
        ({"mlp_mixer": 3}, "its 'mlp_mixer' is no JSON object"),
        ({"mlp_mixer": {"a": 1}}, "has checkpoint format None"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_config_that_lies(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    """What is no statement is not believed; what states something impossible is
    refused.
    """
    folder = sharded(tmp_path, "true", **config)
    if message:
        refused(folder, message)
    else:
        assert load(folder).labels is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.json' is damaged or no JSON"),
        ("{", "config.json' is damaged or no JSON"),
        ("[]", "config.json' holds list, expected a JSON object"),
        ("[" * 100_000, "config.json' is damaged or no JSON"),
        ('{"a": ' + "1" * 5000 + "}", "config.json' is damaged or no JSON"),
        ("\udcff", "config.json' is damaged or no JSON"),
        (
            " " * 17_000_000,
            "config.json' is damaged or no JSON .*over 16,777,216 bytes",
        ),
    ],
    ids=["empty", "cut off", "list", "deep", "digits", "no text", "long"],
)
def test_a_config_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    folder = sharded(tmp_path, "true")
    (folder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    refused(folder, message)


# ------------------------------------------------------------------------------------------------------
# other files


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(data))
    return buffer.getvalue()


def pictured(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            r"is empty \(0 bytes\); give an npz, safetensors, pt, pth, bin, h5 or keras file",
        ),
        (
            b"<!DOCTYPE html><html>404</html>",
            "is a web page, not a file of weights: the download went wrong",
        ),
        (b"\n<?xml version='1.0'?><Error/>", "is a web page, not a file of weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a git-lfs pointer, .* run `git lfs pull`",
        ),
        (gzip.compress(saved(state()), mtime=0), "is compressed by gzip: unpack it first"),
        (tarred(b"x"), "is a tar archive: unpack it first"),
        (pictured("JPEG"), "is a picture; give"),
        (pictured("PNG"), "is a picture; give"),
        (b"accuracy 0.9\n", "is no file of weights, or its beginning is damaged"),
        (bytes(1000), "is no file of weights, or its beginning is damaged"),
        (b"\x80", "damaged and cannot be read"),
        (b"PK\x03\x04", "damaged and cannot be read"),
        (b"\x89HDF\r\n\x1a\n", "damaged and cannot be read"),
        (
            b"cos\nsystem\n(S'false'\ntR.",
            "is no file of weights, or its beginning is damaged",
        ),
    ],
    ids=lambda value: str(value[:12]),
)
def test_other_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "file.pth").write_bytes(data)
    refused(tmp_path / "file.pth", message)


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(
        tmp_path / "pipe", "is a pipe, a device or a folder, expected a file of weights"
    )
    refused(Path("/dev/zero"), "is a pipe, a device or a folder")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    refused(tmp_path / "circle", "no checkpoint at")
    (tmp_path / "best.safetensors").mkdir()
    refused(tmp_path, "holds no best.safetensors")


@pytest.mark.parametrize(
    "name",
    ["a" * 5000, "a\0b", "\ud800", "~nobody/x", "http:", "C:\\x", "\n"],
    ids=lambda name: repr(name[:9]),
)
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UserError):
        load(name)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", create_model("mixer_nano4"))
    path.chmod(0)
    refused(path, "may not be read: permission denied")


def test_permission_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "m.safetensors", create_model("mixer_nano4"))
    monkeypatch.setattr(Path, "open", closed)
    refused(path, "may not be read: permission denied")


# -----------------------------------------------------------------------------------------------------
# architecture


def without(*starts: str) -> dict[str, Tensor]:
    return {
        name: tensor for name, tensor in state().items() if not name.startswith(starts)
    }


def swapped(one: str, other: str) -> dict[str, Tensor]:
    """With everything under one name in the place of the other."""
    places = {
        name: name.replace(one, "#").replace(other, one).replace("#", other)
        for name in state()
    }
    return {places[name]: tensor for name, tensor in state().items()}


FC1 = "blocks.1.mlp_channels.fc1.weight"
LIES: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "transposed": (
        lambda: state() | {FC1: state()[FC1].T},
        rf"{FC1} is \(6, 7\), expected \(7, 6\) \(transposed\?\)",
    ),
    "two MLPs swapped": (
        lambda: swapped("blocks.1.mlp_tokens", "blocks.1.mlp_channels"),
        r"blocks.1.mlp_tokens.fc1.weight is \(7, 6\), expected \(5, 16\) \(swapped with blocks.1.mlp_channels.fc1.weig",
    ),
    "two tensors swapped": (
        lambda: swapped("blocks.1.mlp_tokens.fc1.bias", "blocks.1.norm1.bias"),
        r"blocks.1.mlp_tokens.fc1.bias is \(6,\), expected \(5,\) \(swapped with blocks.1.norm1.bias\?\)",
    ),
    "a block lost": (
        lambda: without("blocks.1."),
        "missing blocks.1.norm1.weight; .*; and 4 more",
    ),
    "the last block cut": (
        lambda: without("blocks.2.mlp_ch"),
        "missing blocks.2.mlp_channels.fc1.weight; .*fc2.bias$",
    ),
    "no stem": (
        lambda: without("stem."),
        "missing stem.proj.weight; missing stem.proj.bias",
    ),
    "half a head": (lambda: without("head.bias"), "missing head.bias"),
    "a key more": (
        lambda: state() | {"head.scale": torch.ones(1)},
        "unexpected head.scale",
    ),
    "gated": (
        lambda: state() | {FC1: torch.ones(14, 6)},
        rf"{FC1} is \(14, 6\), expected \(7, 6\)$",
    ),
    "block 999999": (
        lambda: state() | {"blocks.999999.norm1.bias": torch.ones(6)},
        "unexpected blocks.999999.norm1.bi",
    ),
    "block 99999": (
        lambda: state() | {"blocks.99999.mlp_tokens.fc1.bias": torch.ones(6)},
        "numbers its blocks up to 100,000, but holds only 43 tensors: refused",
    ),
    "block -1": (
        lambda: state() | {"blocks.-1.mlp_tokens.fc1.bias": torch.ones(6)},
        "unexpected blocks.-1",
    ),
    "block ٣": (
        lambda: state() | {"blocks.٣.mlp_tokens.fc1.bias": torch.ones(6)},
        "missing blocks.3.norm1.weight",
    ),
    "wrapped and not": (
        lambda: state() | {"module.head.bias": torch.ones(4)},
        "unexpected module.head.bias",
    ),
    "compiled and not": (
        lambda: state() | {"_orig_mod.head.bias": torch.ones(4)},
        "holds a tensor twice, with and without '_orig_mod.' in its name",
    ),
    "oblong patches": (
        lambda: state() | {"stem.proj.weight": torch.ones(6, 3, 2, 3)},
        "patches of 2x3 pixels, expected",
    ),
    "a flat stem": (
        lambda: state() | {"stem.proj.weight": torch.ones(6, 12)},
        r"is \(6, 12\), expected 4 axes",
    ),
    "an oblong grid": (
        lambda: {
            n: torch.ones(*(15 if size == 16 else size for size in t.shape))
            for n, t in state().items()
        },
        "was made for 15 patches of 2 pixels, which form no square; state the image size",
    ),
    "two axes in one": (
        lambda: state("lucidrains") | {"3.0.fn.0.weight": torch.ones(5, 16, 3)},
        r"3.0.fn.0.weight is \(5, 16, 3\), expected 3 axes, axis 2 of length 1",
    ),
    "several kernels": (
        lambda: (
            state("google_prelinen")
            | {
                "Mixer/encoderblock_1/token_mixing_phase_0/kernel1": torch.ones(
                    2, 16, 5
                )
            }
        ),
        r"kernel1 is \(2, 16, 5\), expected 3 axes, axis 0 of length 1",
    ),
    "several biases": (
        lambda: (
            state("google_prelinen")
            | {"Mixer/encoderblock_1/token_mixing_phase_0/bias1": torch.ones(2, 5)}
        ),
        r"bias1 is \(2, 5\), expected 2 axes, axis 0 of length 1",
    ),
    "a ragged stem": (
        lambda: state("lucidrains") | {"1.weight": torch.ones(6, 7)},
        "flattens each patch to 7 values, which does not tell its side and channels",
    ),
    "an odd width": (
        lambda: state() | {"norm.weight": torch.ones(7)},
        r"norm.weight is \(7,\), expected \(6,\)",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, name: str) -> None:
    build, message = LIES[name]
    (tmp_path / "m.pth").write_bytes(
        saved({n: tensor.clone() for n, tensor in build().items()})
    )
    refused(tmp_path / "m.pth", message)


STRANGERS = {
    "vit_tiny_patch16_224": "holds a Vision Transformer, not an MLP-Mixer",
    "deit_tiny_distilled_patch16_224": "holds a Vision Transformer, not an MLP-Mixer",
    "resnet10t": "holds a convolutional network with batch norm, such as a ResNet, not an MLP-Mixer",
    "convnext_atto": "holds a ConvNeXt or a relative, not an MLP-Mixer",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_other_networks_are_named(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        tensors = timm.create_model(name).state_dict()
    first = {
        name: tensor
        for name, tensor in tensors.items()
        if not re.match(r"(blocks|stages)\.[1-9]", name)
    }
    torch.save(
        {
            name: torch.zeros(tensor.shape, dtype=torch.half)
            for name, tensor in first.items()
        },
        tmp_path / "m.pth",
    )
    refused(tmp_path / "m.pth", STRANGERS[name])


# -------------------------------------------------------------------------------------
# time, memory and the process


def zeros(megabytes: int) -> bytes:
    """A raw deflate stream of so many zeros, a thousandth as long."""
    deflate = zlib.compressobj(9, wbits=-15)
    return (
        deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    ) * megabytes + b"\x03\x00"


def bomb(
    name: str, stated: int, data: bytes | None = None, *, method: int = 8
) -> bytes:
    """A zip of one member whose directory states this length."""
    data = zeros(1000) if data is None else data
    fields = struct.pack(
        "<HHHHHIIIHH", 20, 0, method, 0, 33, 0, len(data), stated, len(name), 0
    )
    local = b"PK\x03\x04" + fields + name.encode() + data
    directory = (
        b"PK\x01\x02\x14\x00"
        + fields
        + struct.pack("<HHHII", 0, 0, 0, 0, 0)
        + name.encode()
    )
    return (
        local
        + directory
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), len(local), 0)
    )


def legacy(opcodes: bytes) -> bytes:
    """torch's old format around a pickle by hand, without any numbers behind it."""
    sound = saved({}, _use_new_zipfile_serialization=False)
    return sound[: sound.rindex(b"\x80\x02}")] + b"\x80\x02" + opcodes


def inflating() -> bytes:
    """HDF5 with a chunk of 16 bytes that inflates to a gigabyte."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        place = file.create_dataset(
            BIAS_PATH, shape=(4,), chunks=(4,), dtype="f4", compression="gzip"
        )
        place.id.write_direct_chunk((0,), b"\x78\x9c" + zeros(1000))
    return buffer.getvalue()


def archived(weights: bytes) -> bytes:
    """A .keras file with these weights."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.weights.h5", weights)
    return buffer.getvalue()


def biting() -> bytes:
    """HDF5 whose list of free space in a group's heap of names leads back to itself."""
    data = bytearray(containers.to_bytes(".h5", state("keras")))
    for heap in re.finditer(b"HEAP\0", bytes(data)):
        (start,) = struct.unpack_from("<Q", data, heap.start() + 24)
        data[heap.start() + 16 : heap.start() + 24] = struct.pack("<Q", 8)
        data[start + 8 : start + 24] = struct.pack("<QQ", 8, 16)
    assert b"HEAP\0" in data
    return bytes(data)


def million() -> bytes:
    """A safetensors file of a million empty tensors, each of which would be valid."""
    line = ",".join(
        f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        for i in range(1_000_000)
    )
    return struct.pack("<Q", len(line) + 2) + b"{" + line.encode() + b"}"


PATTERN = b"q\x000(h\x00h\x00t"  # the last value, twice
CHINESE = "".join(chr(0x4E00 + i % 20_000) for i in range(100_000))
COLLIDING = b"".join(
    b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N"
    for i in range(100_000)
)
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a deep tuple as a key": (
        "pth",
        lambda: zipped(b"})" + b"\x85" * 900_000 + b"Ns."),
        "holds a dict of '<tuple>'",
    ),
    "a wide tuple as a key": (
        "pth",
        lambda: zipped(b"})" + PATTERN * 99 + b"Ns."),
        "holds a dict of '<tuple>'",
    ),
    "a wide tuple": (
        "pth",
        lambda: zipped(b")" + PATTERN * 99 + b"."),
        "holds a value of type tuple",
    ),
    "a wrapper of itself": (
        "pth",
        lambda: zipped(b"}q\x00" + text("state_dict") + b"h\x00s."),
        "holds a dict of 'state_dict'",
    ),
    "deep lists": (
        "pth",
        lambda: zipped(b"]" * 450_000 + b"a" * 449_999 + b"."),
        "holds a value of type list",
    ),
    "deep dicts": (
        "pth",
        lambda: zipped((b"}" + text("a")) * 200_000 + b"N" + b"s" * 200_000 + b"."),
        "a dict of 'a'",
    ),
    "colliding numbers as keys": (
        "pth",
        lambda: zipped(b"}(" + COLLIDING + b"u."),
        "holds a dict of '<int>'",
    ),
    "a slow codec": (
        "pth",
        lambda: zipped(
            b"c_codecs\nencode\n" + text(CHINESE) + text("punycode") + b"\x86R."
        ),
        "holds an object of _codecs",
    ),
    "a terabyte of zeros": (
        "pth",
        lambda: zipped(
            b"c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."
        ),
        "holds an object of builtins",
    ),
    "a million opcodes": (
        "pth",
        lambda: zipped(b"N0" * 600_000 + b"N."),
        "a pickle of over 1,000,000 steps",
    ),
    "a long number": (
        "pth",
        lambda: zipped(
            holding(tensor(shape="\x8b\x40\x42\x0f\x00" + "\x7f" * 10**6 + "\x85")), ONE
        ),
        "'w0' has no sensible shape",
    ),
    "an old storage of gigabytes": (
        "pth",
        lambda: legacy(
            holding(tensor(numel=LONG, shape="J\xff\xff\xff\x7f\x85"))
            + b"\x80\x02]"
            + text("0")
            + b"a."
        ),
        "is not as long as stated",
    ),
    "a torch bomb": (
        "pth",
        lambda: bomb("archive/data.pkl", 2**30),
        r"claims to hold 1,073,741,824: it is damaged or",
    ),
    "a torch bomb that lies": (
        "pth",
        lambda: bomb("archive/data.pkl", 10**6),
        "is damaged and cannot be read",
    ),
    "an npz bomb": (
        "npz",
        lambda: bomb("head/bias.npy", 2**30),
        "claims to hold 1,073,741,824: it is damaged or a trap",
    ),
    "an npz bomb that lies": (
        "npz",
        lambda: bomb("head/bias.npy", 10**6),
        "is damaged and cannot be read",
    ),
    "an npz bomb in its header": (
        "npz",
        lambda: bomb(
            "head/bias.npy",
            1000,
            b"\x00\x0c\x00\xf3\xff\x93NUMPY\x02\x00\xff\xff\xff\x7f" + zeros(1000),
        ),
        "is damaged and cannot be read",
    ),
    "an npz bomb of bz2": (
        "npz",
        lambda: bomb("head/bias.npy", 1000, method=12),
        "compressed in an unusual way",
    ),
    "a Keras bomb": (
        "keras",
        lambda: bomb("model.weights.h5", 2**30),
        "claims to hold 1,073,741,824: it is damaged",
    ),
    "a Keras bomb that lies": (
        "keras",
        lambda: bomb("model.weights.h5", 10**6),
        "is damaged and cannot be read",
    ),
    "an HDF5 bomb": ("h5", inflating, "compressed or in another file; save it plainly"),
    "an HDF5 list without end": (
        "h5",
        biting,
        "has a list of free space without end: damaged or a trap, refused",
    ),
    "the same in Keras": (
        "keras",
        lambda: archived(biting()),
        "has a list of free space without end",
    ),
    "a million empty tensors": (
        "safetensors",
        million,
        "has a header of .* bytes, at most 4,194,304 are read",
    ),
}

WORKER = """
import json, sys
from pathlib import Path
import mlp_mixer

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

honest = [path for path in sys.argv[2:] if "honest" in path]
for path in honest:
    mlp_mixer.load(path)  # so that all libraries are there
if int(sys.argv[1]):
    import resource
    limit = status("VmSize") + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[2:]:
    before = status("VmRSS")
    try:
        mlp_mixer.load(path)
        outcome = "loaded", ""
    except mlp_mixer.UserError as error:
        outcome = "UserError", str(error)
    except BaseException as error:
        outcome = type(error).__name__, str(error)[:300]
    print(json.dumps([path, *outcome, status("VmHWM") - before]), flush=True)
"""


def elsewhere(paths: list[Path], limit: int = 0) -> dict[str, tuple[str, str, int]]:
    """Load files in another process with so much more memory: outcome, message and peak
    bytes for each.
    """
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-c",
        WORKER,
        str(limit),
        *map(str, paths),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(paths), (
        f"died of {paths[len(lines)].name}: {done.stderr[-2000:]}"
    )
    return {
        Path(path).name: (outcome, message, peak)
        for path, outcome, message, peak in lines
    }


linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc and RLIMIT_AS"
)


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[str, str, int]]:
    """All bombs, met by one process that may take 600 MB."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = [npz(folder / "honest.npz", arrays()), h5(folder / "honest.h5")]
    for name, (suffix, build, _) in BOMBS.items():
        paths.append(folder / f"{name}.{suffix}")
        paths[-1].write_bytes(build())
    return elsewhere(paths, 600 * 2**20)


@linux
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(
    outcomes: dict[str, tuple[str, str, int]], name: str
) -> None:
    suffix, _, message = BOMBS[name]
    outcome, sentence, _ = outcomes[f"{name}.{suffix}"]
    assert outcome == "UserError", sentence
    assert re.search(message, sentence), sentence
    assert sentence.isprintable()


@linux
@pytest.mark.parametrize("kind", ["npz", "safetensors", "pth", "h5"])
def test_memory_stays_a_small_multiple_of_the_file(tmp_path: Path, kind: str) -> None:
    config = dataclasses.replace(CONFIG, channels_mlp_dim=300_000)
    lineage = LINEAGES[{"npz": "google", "h5": "keras"}.get(kind, "timm")]
    wide = {
        name: torch.full(tensor.shape, 0.01)
        for name, tensor in MlpMixer(
            dataclasses.replace(config, final_norm=lineage.final_norm)
        )
        .state_dict()
        .items()
    }
    path = tmp_path / f"large.{kind}"
    path.write_bytes(
        containers.to_bytes(f".{kind}", translate.to_theirs(config, wide, lineage))
    )
    small = tmp_path / f"honest.{kind}"
    small.write_bytes(containers.to_bytes(f".{kind}", state(lineage.name)))
    outcome, message, peak = elsewhere([small, path])[path.name]
    assert outcome == "loaded", message
    assert path.stat().st_size > 40e6
    assert peak < 4 * path.stat().st_size
