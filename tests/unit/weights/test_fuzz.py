"""Whatever bytes a checkpoint has, `load` gives finite weights or one sentence.

`MLP_MIXER_FUZZ=20000 pytest tests/unit/weights/test_fuzz.py` tries that many examples
for each kind of file.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlp_mixer import MixerConfig, MlpMixer, UserError, load
from mlp_mixer.weights.checkpoint import StoredWeights, native_bytes
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES
from mlp_mixer.weights.lineages.transforms import eval_preprocess

EXAMPLES = int(os.environ.get("MLP_MIXER_FUZZ", "100"))
CONFIG = MixerConfig(
    2, 1, 2, 4, 4, image_size=(4, 4), in_channels=1, num_classes=2, gelu="erf"
)
USUAL = eval_preprocess("paper", CONFIG.image_size, CONFIG.in_channels)
fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outcome(path: Path) -> str:
    """What `load` made of a file: "loaded" or its sentence; anything else is a failure."""
    try:
        checkpoint = load(path)
    except UserError as error:
        sentence = str(error)
    else:
        assert all(
            tensor.isfinite().all() for tensor in checkpoint.model.state_dict().values()
        )
        return "loaded"
    assert sentence.isprintable()
    assert len(sentence) < 2500
    return sentence


@functools.cache
def tensors(lineage: str) -> dict[str, Tensor]:
    """A tiny Mixer under a lineage's names."""
    config = MixerConfig(**vars(CONFIG) | {"final_norm": LINEAGES[lineage].final_norm})
    shapes = {
        name: tensor.shape for name, tensor in MlpMixer(config).state_dict().items()
    }
    ours = {
        name: torch.linspace(-1, 1, math.prod(shape)).view(shape)
        for name, shape in shapes.items()
    }
    if lineage == "keras":
        ours |= {
            name.replace("norm1", "norm2"): tensor
            for name, tensor in ours.items()
            if "norm1" in name
        }
    return translate.to_theirs(config, ours, LINEAGES[lineage])


def compressed() -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        name: tensor.numpy() for name, tensor in tensors("google").items()
    }
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save(
        {"state_dict": tensors("timm"), "epoch": 1},
        buffer,
        _use_new_zipfile_serialization=False,
    )
    return buffer.getvalue()


def modern() -> bytes:
    """HDF5 of its latest format, with chunks and attributes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        for name, tensor in tensors("keras").items():
            file.create_dataset(name, data=tensor.numpy(), chunks=True).attrs[
                "note"
            ] = "text"
    return buffer.getvalue()


def keras() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr(
            "model.weights.h5", containers.to_bytes(".h5", tensors("keras"))
        )
    return buffer.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "npz": lambda: containers.to_bytes(".npz", tensors("google")),
    "compressed npz": compressed,
    "safetensors": lambda: containers.to_bytes(".safetensors", tensors("timm")),
    "native": lambda: native_bytes(
        StoredWeights(CONFIG, tensors("timm"), USUAL, ("a", "b"), {}, "native")
    ),
    "pth": lambda: containers.to_bytes(
        ".pth", tensors("mmpretrain"), wrap="state_dict"
    ),
    "legacy pth": legacy,
    "h5": lambda: containers.to_bytes(".h5", tensors("keras")),
    "modern h5": modern,
    "keras": keras,
}


@functools.cache
def sound(kind: str) -> bytes:
    return FILES[kind]()


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some flipped, set, deleted, inserted, copied, counted up or cut off."""
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 16]))
        inside = data[at : at + length]
        match draw(
            st.sampled_from(["flip", "set", "delete", "insert", "copy", "count", "cut"])
        ):
            case "flip":
                new = (
                    bytes([inside[0] ^ 1 << draw(st.integers(0, 7))]) + inside[1:]
                    if inside
                    else b""
                )
            case "set":
                new = draw(
                    st.sampled_from([b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01"])
                ) * len(inside)
            case "delete":
                new = b""
            case "insert":
                new = draw(st.binary(min_size=1, max_size=16)) + inside
            case "copy":
                other = draw(st.integers(0, max(len(data) - 1, 0)))
                new = data[other : other + length]
            case "count":
                step = draw(st.sampled_from([-1, 1, 8, 256]))
                new = (
                    (int.from_bytes(inside, "little") + step)
                    .__mod__(256 ** len(inside))
                    .to_bytes(len(inside), "little")
                )
            case _:
                new = b""
                inside = data[at:]
        data = data[:at] + new + data[at + len(inside) :]
    return data


@pytest.mark.parametrize(
    "kind", [kind for kind in FILES if "h5" not in kind and kind != "keras"]
)
def test_damaged_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(sound(kind))
    assert outcome(path) == "loaded"

    @fuzz
    @given(damaged(sound(kind)))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        outcome(path)

    check()


WORKER = """
import faulthandler, importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("fuzz", sys.argv[1])
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)
for line in sys.stdin:
    faulthandler.dump_traceback_later(60, exit=True)
    print(fuzz.outcome(Path(line.rstrip("\\n"))), flush=True)
"""


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[[Path], str]]:
    """`outcome` in another process, which may crash or hang: its answer is then empty."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "faulthandler", "-c", WORKER, __file__]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        stdin = worker.stdin
        stdout = worker.stdout

        def asking(path: Path) -> str:
            print(path, file=stdin, flush=True)
            return stdout.readline()

        yield asking


@pytest.mark.parametrize("kind", ["h5", "modern h5", "keras"])
def test_damaged_bytes_of_hdf5(
    tmp_path: Path, ask: Callable[[Path], str], kind: str
) -> None:
    """libhdf5 is C, and earlier ones crashed on damaged files."""
    path = tmp_path / "file.h5"
    path.write_bytes(sound(kind))
    assert ask(path) == "loaded\n"

    @fuzz
    @given(damaged(sound(kind)))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        assert ask(path)

    check()


NAMES = sorted(
    {
        f"{prefix}{name}"
        for d in LINEAGES
        for name in tensors(d)
        for prefix in ("", "module.", "model.")
    }
)
DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.bool,
]


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """A lineage's tensors with some lost, renamed, resized, retyped, swapped or added."""
    found = dict(tensors(draw(st.sampled_from(sorted(LINEAGES)))))
    names = st.sampled_from(NAMES) | st.text(max_size=8)
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(sorted(found))) if found else "a"
        match draw(
            st.sampled_from(
                [
                    "lose",
                    "rename",
                    "resize",
                    "retype",
                    "transpose",
                    "swap",
                    "add",
                    "prefix",
                ]
            )
        ):
            case "lose":
                found.pop(name, None)
            case "rename" if found:
                found[draw(names)] = found.pop(name)
            case "resize" | "add":
                shape = draw(st.lists(st.integers(0, 5), max_size=5))
                found[name if draw(st.booleans()) else draw(names)] = torch.ones(shape)
            case "retype" if found:
                found[name] = found[name].to(draw(st.sampled_from(DTYPES)))
            case "transpose" if found:
                found[name] = found[name].permute(
                    tuple(reversed(range(found[name].ndim)))
                )
            case "swap" if found:
                other = draw(st.sampled_from(sorted(found)))
                found[name], found[other] = found[other], found[name]
            case _:
                prefix = draw(
                    st.sampled_from(
                        ["module.", "_orig_mod.", "params/", "opt/target/", "blocks.7."]
                    )
                )
                found = {prefix + name: tensor for name, tensor in found.items()}
    return found


@fuzz
@given(
    state_dicts(),
    st.sampled_from([".npz", ".safetensors", ".pth", ".h5"]),
    st.sampled_from([None, "model", "x"]),
)
def test_tensors_that_no_mixer_has(
    tmp_path: Path, found: dict[str, Tensor], suffix: str, wrap: str | None
) -> None:
    path = tmp_path / f"file{suffix}"
    try:
        path.write_bytes(containers.to_bytes(suffix, found, wrap=wrap))
    except (
        ValueError,
        TypeError,
        OSError,
        RuntimeError,
        UnicodeError,
    ):  # no such names or numbers in this container
        return
    outcome(path)


@fuzz
@given(
    state_dicts(),
    st.sampled_from(
        [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}]
    ),
)
def test_torch_reads_the_same(
    tmp_path: Path, found: dict[str, Tensor], options: dict[str, Any]
) -> None:
    """Our reader of pickles against torch's own, bit by bit."""
    path = tmp_path / "file.pth"
    torch.save({"model": found, "epoch": 1}, path, **options)
    if not found or not all(name.isprintable() for name in found):
        outcome(path)
        return
    read = containers.read(path).tensors
    assert read.keys() == found.keys()
    for name, tensor in found.items():
        assert (read[name].dtype, read[name].shape, read[name].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert torch.equal(read[name], tensor)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """The JSON value with one thing in it replaced, added or lost."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 9)):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return value | {draw(st.text(max_size=8)): draw(json_values)}
        return value | {key: draw(altered(value[key]))}
    return draw(json_values)


@functools.cache
def described() -> Any:
    return json.loads(safetensors_metadata(sound("native"))["mlp_mixer"])


def safetensors_metadata(data: bytes) -> dict[str, str]:
    metadata: dict[str, str] = json.loads(
        data[8 : 8 + int.from_bytes(data[:8], "little")]
    )["__metadata__"]
    return metadata


@fuzz
@given(st.data())
def test_descriptions_that_no_network_has(tmp_path: Path, data: st.DataObject) -> None:
    text = json.dumps(data.draw(altered(described())))
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors.torch.save(dict(tensors("timm")), {"mlp_mixer": text}))
    outcome(path)


HUB = {
    "architecture": "mixer_b16_224",
    "num_classes": 2,
    "label_names": ["a", "b"],
    "id2label": {"0": "a", "1": "b"},
    "model_args": {"img_size": [4, 4]},
    "pretrained_cfg": {
        "input_size": [1, 4, 4],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5],
        "std": [0.5],
    },
}


@fuzz
@given(
    altered(HUB),
    altered({"weight_map": dict.fromkeys(tensors("timm"), "a.safetensors")}),
    st.booleans(),
)
def test_folders_that_no_hub_has(
    tmp_path: Path, config: Any, index: Any, whole: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "a.safetensors").write_bytes(sound("safetensors"))
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    if whole:
        (tmp_path / "model.safetensors").write_bytes(sound("safetensors"))
    outcome(tmp_path)
