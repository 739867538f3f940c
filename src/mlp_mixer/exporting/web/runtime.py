"""Get onnxruntime-web, which runs ONNX graphs in browsers, from its npm package.

The package is pinned by the hash of its archive, and the two files that a page needs by
theirs: wherever they come from, they are the ones that were tested.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError
from ...files import PathLike, cache_folder, path_of, refusing, write_bytes
from ...web import fetch, join, offline

NAME = "onnxruntime-web"
VERSION = "1.30.0"
PUBLIC_REGISTRY = "https://registry.npmjs.org"


class Pin(NamedTuple):
    """A file that is known before it comes.

    Attributes:
        name: Its path in the package, or its name.
        size: In bytes.
        sha256: In hexadecimal digits.
    """

    name: str
    size: int
    sha256: str


ARCHIVE = Pin(
    f"{NAME}-{VERSION}.tgz",
    33_106_585,
    "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
)
# The module with the loader of the other file inside, and the runtime itself.
SCRIPT = Pin(
    "dist/ort.wasm.bundle.min.mjs",
    73_054,
    "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
)
WASM = Pin(
    "dist/ort-wasm-simd-threaded.wasm",
    14_239_897,
    "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
)


class Runtime(NamedTuple):
    """The files of onnxruntime-web that a page needs.

    Attributes:
        script: An ECMAScript module.
        wasm: What it runs, WebAssembly.
    """

    script: bytes
    wasm: bytes


def find_runtime(given: PathLike | None = None) -> Runtime:
    """Return onnxruntime-web: a given one, that of the cache, or a downloaded one.

    Args:
        given: The archive of the npm package, or a folder in which it is unpacked or
            installed. None: the cache of this package, else npm's registry
            (`registry()`), 32 MiB.

    Raises:
        UserError: It is not there, it is another version, or it cannot be had.
    """
    if given is not None:
        return _given(path_of(given))
    place = cache_folder(NAME, VERSION)
    runtime = _in_folder(place)
    if runtime is None:
        runtime = _downloaded(place)
        for pin, data in zip((SCRIPT, WASM), runtime, strict=True):
            write_bytes(place / pin.name, data)
    return runtime


def registry() -> str:
    """Return the address of npm's registry, as npm itself finds it.

    It is the environment variable `npm_config_registry`, in small or capital letters,
    else the line `registry=` of the user's .npmrc, else the public one.
    """
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if address := os.environ.get(name):
            return address
    settings = os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc"
    try:
        text = Path(settings).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return PUBLIC_REGISTRY
    line = re.search(r"^\s*registry\s*=\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
    return line[1] if line else PUBLIC_REGISTRY


def _given(path: Path) -> Runtime:
    """Read the archive or the folder that somebody has named."""
    if path.is_dir():
        # The package itself, its unpacked archive, a project that has installed it.
        for inside in ("", "package", f"node_modules/{NAME}"):
            runtime = _in_folder(path / inside, strict=True)
            if runtime is not None:
                return runtime
        raise UserError(
            f"there is no {NAME} in {str(path)!r}: expected the unpacked npm package "
            f"with {SCRIPT.name} and {WASM.name}, or give its archive {ARCHIVE.name}"
        )
    if not path.is_file():
        raise UserError(
            f"there is no {str(path)!r}: expected the archive {ARCHIVE.name} of npm, or "
            "a folder in which it is unpacked"
        )
    return _unpacked(path)


def _in_folder(folder: Path, *, strict: bool = False) -> Runtime | None:
    """Return the files of a folder if both are there and right.

    Args:
        folder: The unpacked package.
        strict: Whether wrong files are an error, and not as good as missing ones.
    """
    found = []
    for pin in (SCRIPT, WASM):
        path = folder / pin.name
        if not path.is_file():
            return None
        with refusing("read", path):
            data = path.read_bytes()
        if not _is(pin, data):
            if strict:
                raise _another(path)
            return None
        found.append(data)
    return Runtime(*found)


def _unpacked(path: Path) -> Runtime:
    """Read the two files out of the archive, which is never unpacked as a whole."""
    found = []
    try:
        with tarfile.open(path) as archive:
            for pin in (SCRIPT, WASM):
                member = archive.getmember(f"package/{pin.name}")
                # Its size is compared first: a small archive can claim gigabytes.
                file = archive.extractfile(member) if member.size == pin.size else None
                data = file.read() if file else b""
                if not _is(pin, data):
                    raise _another(path)
                found.append(data)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise _another(path) from error
    except OSError as error:
        raise UserError(
            f"cannot read {str(path)!r}: {error.strerror or error}; expected the "
            f"archive {ARCHIVE.name} of npm"
        ) from error
    return Runtime(*found)


def _downloaded(place: Path) -> Runtime:
    address = join(registry(), f"{NAME}/-/{ARCHIVE.name}")
    elsewhere = (
        f"give the archive that `npm pack {NAME}@{VERSION}` brings, by --runtime"
    )
    if variable := offline():
        raise UserError(
            f"a page needs {NAME}, and the network is switched off: unset {variable}, or "
            f"{elsewhere}"
        )
    target = place / ARCHIVE.name
    try:
        path = fetch(address, target, ARCHIVE.size, ARCHIVE.sha256, bar=True)
    except UserError as error:
        raise UserError(f"{error}; or {elsewhere}") from error
    runtime = _unpacked(path)
    # Half of it is source maps; the cache keeps the two files.
    path.unlink()
    return runtime


def _is(pin: Pin, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == pin.sha256


def _another(path: Path) -> UserError:
    return UserError(
        f"{str(path)!r} is not {NAME} {VERSION}, or is damaged: expected the files of "
        f"that version (npm pack {NAME}@{VERSION})"
    )
