"""A pickle is walked as data: nothing in it runs, and what is odd is refused."""

from __future__ import annotations

import builtins
import functools
import io
import operator
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from ..small_files import (
    FLOATS,
    ONE,
    WRITERS,
    Trap,
    holding,
    refused,
    saved,
    state,
    tensor,
    text,
    zipped,
)


def traps(marker: Path) -> dict[str, Trap]:
    """The name that is refused -> what would leave a file behind if it ran."""
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
            path, f"asks to run '(builtins.getattr|_?{module}[.].*)'"
        ), place
        assert not marker.exists(), place


def test_the_traps_are_real(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(traps(marker)["posix.system"]))
    assert marker.exists()


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
