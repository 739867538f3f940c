"""The folder of the Hugging Face convention: `config.json` beside `model.safetensors`,
as timm and transformers do.
"""

from __future__ import annotations

import contextlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import UserError, unknown
from ...images.preprocess import Preprocess
from ...web import offline
from ..checkpoint import KEY
from ..formats import containers
from ..formats.contents import Contents

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WANTED = (
    ["config.json", "model*.safetensors", _INDEX[0]],
    ["config.json", "pytorch_model*.bin", _INDEX[1]],
)
_MOST_JSON = 2**24
_TRANSFORM = {  # timm's words -> the field of `Preprocess` and its words
    "interpolation": (
        "interpolation",
        {name: name for name in ("bicubic", "bilinear", "nearest")} | {"box": "area"},
    ),
    "crop_mode": ("resize", {"center": "resmall", "squash": "resize"}),
}


def read_folder(folder: Path) -> tuple[Contents, dict[str, Any]]:
    """The tensors of a folder (from one file, or from the shards that its index names),
    and its `config.json`.
    """
    described = (
        _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    )
    if (
        "transformers_version" in described
    ):  # it keeps our description, but may have trained the weights
        described.pop(KEY, None)
    if not isinstance(described.get(KEY, {}), dict):
        raise UserError(
            f"{str(folder / 'config.json')!r} is damaged: its {KEY!r} is no JSON object"
        )
    for name in _SINGLE:
        if (folder / name).is_file():
            return containers.read(folder / name), described
    for name in _INDEX:
        if (folder / name).is_file():
            return _read_shards(folder, _json(folder / name)), described
    raise UserError(
        f"the folder {str(folder)!r} holds no best.safetensors (a run of mlp-mixer) "
        f"and no {_SINGLE[0]} (Hugging Face); give a checkpoint, or a folder with one of them"
    )


def hub_folder(repo_id: str, *, revision: str | None = None) -> Path:
    """The files of `owner/name` (or `owner/name@revision`, as in timm) that
    `read_folder` needs, in its cache.
    """
    import huggingface_hub

    name, _, tag = repo_id.partition("@")
    revision = revision or tag or None
    with hub_errors(f"download {name!r}" + (f" at {revision!r}" if revision else "")):
        for (
            wanted
        ) in _WANTED:  # the second kind only where there is nothing of the first
            options: dict[str, Any] = {
                "local_files_only": bool(offline()),
                "allow_patterns": wanted,
            }
            folder = Path(
                huggingface_hub.snapshot_download(name, revision=revision, **options)
            )
            if any((folder / file).is_file() for file in (*_SINGLE, *_INDEX)):
                return folder
    raise UserError(
        f"{name!r} on the Hugging Face hub holds no {' and no '.join(_SINGLE)}: nothing that can be loaded"
    )


def hub_file(repo_id: str, filename: str) -> Path:
    """A file of `owner/name` on the hub, by way of that library's own cache;
    `UserError` if it cannot be had.
    """
    import huggingface_hub

    with hub_errors(f"download {filename!r} of {repo_id!r}"):
        path = huggingface_hub.hf_hub_download(
            repo_id, filename, local_files_only=bool(offline())
        )
    return Path(path)


@contextlib.contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Whatever the hub's library raises becomes a `UserError`: "cannot", `doing`, why
    not, and what to do about it.
    """
    from huggingface_hub import constants, errors

    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # they share no base class, and come from one HTTP library or the next
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        said = (
            " ".join(str(getattr(error, "server_message", None) or cause).split())[:200]
            or type(cause).__name__
        )
        login = "log in with `hf auth login`"
        offered = f"{said}; check the connection and the names, and try again"
        hints: dict[type[Exception], str] = {
            errors.HFValidationError: "that is no folder here and no name of a repository, such as 'owner/name'",
            errors.RevisionNotFoundError: "no such revision; give one of its branches, tags or commits",
            errors.LocalEntryNotFoundError: offered,
            errors.EntryNotFoundError: "no such file there; check its name",
            errors.RepositoryNotFoundError: f"no such repository, or a closed one; check the name, or {login}",
        }
        why = next(
            (hint for kind, hint in hints.items() if isinstance(error, kind)), offered
        )
        if on := offline():
            why = f"the network is switched off; bring it into {str(constants.HF_HUB_CACHE)!r}, or unset {on}"
        elif why == offered and getattr(
            getattr(error, "response", None), "status_code", 0
        ) in (401, 403):
            why = f"no permission ({said}); {login}, with a token that has it"
        raise UserError(f"cannot {doing}: {why}") from error


def _read_shards(folder: Path, index: Mapping[str, Any]) -> Contents:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) for name in places.values()
    ):
        raise UserError(
            f"the index in {str(folder)!r} has no weight_map of tensor names to files; download it again"
        )
    contents = Contents({}, "safetensors")
    present = {path.name for path in folder.iterdir()}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(
                f"the index in {str(folder)!r} points to {name[:80]!r}, outside its folder: refused"
            )
        if name not in present:
            raise UserError(
                f"{str(folder)!r} lacks the shard {name[:80]!r} that its index names; download it again"
            )
        shard = containers.read(folder / name)
        contents = Contents(contents.tensors | shard.tensors, shard.container)
    if absent := [
        repr(name[:80])[1:-1] for name in places if name not in contents.tensors
    ]:
        raise UserError(
            f"the shards in {str(folder)!r} lack {', '.join(absent[:4])}, which their index names"
        )
    return contents


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"over {_MOST_JSON:,} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{str(path)!r} is damaged or no JSON ({error}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{str(path)!r} holds {type(value).__name__}, expected a JSON object"
        )
    return value


def image_size(described: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) that a timm configuration states."""
    given = _pretrained(described).get("input_size")
    size = _group(described, "model_args").get("img_size") or (
        given[1:] if isinstance(given, list) else None
    )
    sides: Any = [size, size] if isinstance(size, int) else size
    stated = (
        isinstance(sides, list)
        and len(sides) == 2
        and all(isinstance(side, int) and side > 0 for side in sides)
    )
    return (sides[0], sides[1]) if stated else None


def label_names(described: Mapping[str, Any]) -> list[str] | None:
    """Class names in the places where timm and transformers keep them, listed or by
    number.
    """
    given = _pretrained(described)
    names = (
        described.get("label_names")
        or given.get("label_names")
        or given.get("labels")
        or described.get("id2label")
    )
    if isinstance(names, dict):
        names = [
            names[key] for key in sorted(names, key=lambda key: (len(key), key))
        ]  # "0", ..., "10", ...
    if not isinstance(names, list) or not all(
        isinstance(name, (str, int, float)) for name in names
    ):
        return None
    return list(map(str, names))


def preprocess(described: Mapping[str, Any], usual: Preprocess) -> Preprocess:
    """timm's transform of evaluation; `usual` where nothing is stated, `UserError` for
    what `Preprocess` cannot do.
    """
    given = _pretrained(described)
    fields = dict[str, Any]()
    for key, (field, words) in _TRANSFORM.items():
        if word := given.get(key):
            if not isinstance(word, str) or word not in words:
                raise unknown(
                    f"{key} in config.json", reprlib.repr(word).strip("'"), words
                )
            fields[field] = words[word]
    if _is_number(given.get("crop_pct")):
        fields["crop_pct"] = float(given["crop_pct"])
    for name in ("mean", "std"):
        if values := given.get(name):
            if not isinstance(values, list) or not all(map(_is_number, values)):
                raise UserError(
                    f"{name} in config.json is {reprlib.repr(values)}, expected a list of numbers"
                )
            fields[name] = (
                values
                if len(values) in (1, usual.channels)
                else (sum(values) / len(values),)
            )  # as timm does
    return replace(usual, **fields)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 2**53


def _pretrained(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """timm's record of weights and transform, which older files have at the top."""
    return (
        _group(described, "pretrained_cfg")
        if "pretrained_cfg" in described
        else described
    )


def _group(described: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = described.get(key)
    return value if isinstance(value, dict) else {}
