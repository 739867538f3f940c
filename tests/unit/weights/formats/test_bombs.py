"""Files made to take all memory or time are refused, within a bound on both."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import torch

from mlp_mixer import MlpMixer
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES

from .... import commands
from ..small_files import (
    BIAS_PATH,
    CONFIG,
    ONE,
    arrays,
    h5,
    holding,
    npz,
    saved,
    state,
    tensor,
    text,
    zipped,
)

LONG = 2**31 - 1


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
    """HDF5 with a chunk of 16 bytes that inflates to a gigabyte; of old HDF5 to less."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        place = file.create_dataset(
            BIAS_PATH, shape=(4,), chunks=(4,), dtype="f4", compression="gzip"
        )
        try:
            place.id.write_direct_chunk((0,), b"\x78\x9c" + zeros(1000))
        except OSError:
            # HDF5 before 2.0 has two bytes for the length of so small a chunk.
            place.id.write_direct_chunk((0,), b"\x78\x9c" + zeros(60))
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
        "does not begin as numpy.save writes: refused",
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
        "packed in an unusual way",
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
    """Load files in another process: outcome, message and peak bytes for each.

    `limit` is how much more memory the process may take; with one it begins from
    nothing, as what it loads may end it.
    """
    words = ["-c", WORKER, str(limit), *map(str, paths)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    if limit:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", *words],
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
            check=False,
        )
    else:
        done = commands.run(words, env=environment)
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
