"""The folder of the Hugging Face convention: `config.json` beside the weights.

timm and transformers write and read it, and a repository on the hub is such a folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...untrusted.sizes import read_bytes
from ...untrusted.text import MOST_JSON, parse_json
from ...web import offline
from ..checkpoint import KEY
from ..formats import containers
from ..formats.class_names import class_names
from ..formats.contents import Contents

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# What is downloaded; the second kind only where there is nothing of the first.
_WANTED = (
    ["config.json", "model*.safetensors", _INDEX[0]],
    ["config.json", "pytorch_model*.bin", _INDEX[1]],
)
# A file in a folder of another program -> what the folder is, and what to do with it.
# Their own metadata are pickles, or need the program: none of them is read here.
_OTHER_FOLDERS = (
    (
        "*.distcp",
        "a distributed checkpoint of PyTorch: make one file of it by `python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pt`, and "
        "give that",
    ),
    (
        "zero_to_fp32.py",
        "a checkpoint of DeepSpeed: make one file of it by `python zero_to_fp32.py . "
        "weights.pt` in that folder, and give that",
    ),
    (
        "*mp_rank_*_model_states.pt",
        "a checkpoint of DeepSpeed: give its file mp_rank_00_model_states.pt",
    ),
    (
        "_CHECKPOINT_METADATA",
        "a checkpoint of Orbax (JAX): restore it there, and save its parameters by "
        "name with numpy.savez",
    ),
    (
        "saved_model.pb",
        "a SavedModel of TensorFlow, which is code: save the weights by "
        "`model.save_weights('mixer.weights.h5')`, and give that",
    ),
)
_FORBIDDEN = (401, 403)


def read_folder(folder: Path) -> tuple[Contents, dict[str, Any]]:
    """Read the tensors and the `config.json` of a folder.

    Args:
        folder: The folder; its tensors are in one file, or in the shards that an index
            names.

    Returns:
        The tensors, and the configuration; empty if there is none.

    Raises:
        UserError: There are no weights, or a file is damaged or missing.
    """
    described = _read_config(folder / "config.json")
    for name in _SINGLE:
        if (folder / name).is_file():
            return containers.read(folder / name), described
    for name in _INDEX:
        if (folder / name).is_file():
            return _read_shards(folder, _json(folder / name)), described
    for sign, advice in _OTHER_FOLDERS:
        if any(folder.glob(sign)):
            raise UserError(f"the folder {str(folder)!r} is {advice}")
    raise UserError(
        f"the folder {str(folder)!r} holds no best.safetensors (a run of mlp-mixer) "
        f"and no {_SINGLE[0]} (Hugging Face); give a checkpoint, or a folder with one "
        "of them"
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    described = _json(path)
    # transformers copies our description when it saves a model, although it may have
    # trained the weights or changed the classes: it is not of these weights any more.
    if "transformers_version" in described:
        described.pop(KEY, None)
    if not isinstance(described.get(KEY, {}), dict):
        raise UserError(f"{str(path)!r} is damaged: its {KEY!r} is no JSON object")
    return described


def hub_folder(repo_id: str, *, revision: str | None = None) -> Path:
    """Download the files of a repository that `read_folder` needs.

    Args:
        repo_id: `owner/name`, or `owner/name@revision`, as in timm.
        revision: Branch, tag or commit.

    Returns:
        The folder in the cache of the hub's library.

    Raises:
        UserError: It cannot be downloaded, or holds no weights.
    """
    import huggingface_hub

    name, _, tag = repo_id.partition("@")
    revision = revision or tag or None
    at = f" at {revision!r}" if revision else ""
    with hub_errors(f"download {name!r}{at}"):
        for wanted in _WANTED:
            place = huggingface_hub.snapshot_download(
                name,
                revision=revision,
                local_files_only=bool(offline()),
                allow_patterns=wanted,
            )
            folder = Path(place)
            if any((folder / file).is_file() for file in (*_SINGLE, *_INDEX)):
                return folder
    raise UserError(
        f"{name!r} on the Hugging Face hub holds no {' and no '.join(_SINGLE)}: "
        "nothing that can be loaded"
    )


def hub_file(repo_id: str, filename: str) -> Path:
    """Download one file of a repository.

    Args:
        repo_id: `owner/name`.
        filename: The file in it.

    Returns:
        The file in the cache of the hub's library.

    Raises:
        UserError: It cannot be downloaded.
    """
    import huggingface_hub

    with hub_errors(f"download {filename!r} of {repo_id!r}"):
        path = huggingface_hub.hf_hub_download(
            repo_id, filename, local_files_only=bool(offline())
        )
    return Path(path)


@contextlib.contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Turn whatever the hub's library raises in the block into one `UserError`.

    Args:
        doing: What cannot be done then, such as "download 'owner/name'".

    Raises:
        UserError: The block raised; it says why, and what to do about it.
    """
    try:
        yield
    except UserError:
        raise
    # The library's errors share no base class, and some come from its HTTP library,
    # which changed between its versions.
    except Exception as error:
        raise UserError(f"cannot {doing}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """Say why the hub's library failed, and what to do about it."""
    from huggingface_hub import constants, errors

    if switch := offline():
        cache = str(constants.HF_HUB_CACHE)
        return (
            f"the network is switched off; bring it into {cache!r}, or unset {switch}"
        )
    login = "log in with `hf auth login`"
    hints: dict[type[Exception], str] = {
        errors.HFValidationError: "that is no folder here and no name of a repository, "
        "such as 'owner/name'",
        errors.RevisionNotFoundError: "no such revision; give one of its branches, "
        "tags or commits",
        errors.EntryNotFoundError: "no such file there; check its name",
        errors.RepositoryNotFoundError: "no such repository, or a closed one; check "
        f"the name, or {login}",
    }
    # A file that the cache lacks is a kind of missing entry, but means that there was
    # no connection.
    if not isinstance(error, errors.LocalEntryNotFoundError):
        for kind, hint in hints.items():
            if isinstance(error, kind):
                return hint
    said = _what_it_said(error)
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in _FORBIDDEN:
        return f"no permission ({said}); {login}, with a token that has it"
    return f"{said}; check the connection and the names, and try again"


def _what_it_said(error: Exception) -> str:
    """Return the server's own message, or that of the error behind all others."""
    cause: BaseException = error
    while cause.__cause__:
        cause = cause.__cause__
    message = getattr(error, "server_message", None) or cause
    return " ".join(str(message).split())[:200] or type(cause).__name__


def _read_shards(folder: Path, index: Mapping[str, Any]) -> Contents:
    """Read the tensors of all shards, as the index states them."""
    places: Any = index.get("weight_map")
    is_map = isinstance(places, dict)
    if not is_map or not all(isinstance(name, str) for name in places.values()):
        raise UserError(
            f"the index in {str(folder)!r} has no weight_map of tensor names to files; "
            "download it again"
        )
    tensors: dict[str, Any] = {}
    container = "safetensors"
    # Compared with the names in the folder, because is_file() raises for some names.
    present = {path.name for path in folder.iterdir()}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(
                f"the index in {str(folder)!r} points to {name[:80]!r}, outside its "
                "folder: refused"
            )
        if name not in present:
            raise UserError(
                f"{str(folder)!r} lacks the shard {name[:80]!r} that its index names; "
                "download it again"
            )
        shard = containers.read(folder / name)
        tensors |= shard.tensors
        container = shard.container
    absent = [repr(name[:80])[1:-1] for name in places if name not in tensors]
    if absent:
        raise UserError(
            f"the shards in {str(folder)!r} lack {', '.join(absent[:4])}, which their "
            "index names"
        )
    return Contents(tensors, container)


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a downloaded folder."""
    try:
        value = parse_json(read_bytes(path, MOST_JSON))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r} is damaged or no JSON ({error}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{str(path)!r} holds {type(value).__name__}, expected a JSON object"
        )
    return value


def image_size(described: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the (height, width) that a configuration states, if it states one.

    Args:
        described: The `config.json`.
    """
    # timm's `input_size` is (channels, height, width); an argument of the model
    # overrides that of the entry point.
    given = pretrained(described).get("input_size")
    size = _object(described, "model_args").get("img_size")
    if not size and isinstance(given, list):
        size = given[1:]
    sides: Any = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list) or len(sides) != 2:
        return None
    if not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def label_names(described: Mapping[str, Any]) -> list[str] | None:
    """Return the class names that a configuration states, if it states them.

    Args:
        described: The `config.json`; timm and transformers keep the names in different
            places, as a list or by number.
    """
    return class_names(described)


def pretrained(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return timm's `pretrained_cfg`, which older files have at the top.

    Args:
        described: The `config.json`.
    """
    if "pretrained_cfg" in described:
        return _object(described, "pretrained_cfg")
    return described


def _object(described: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the JSON object under a key; anything else counts as an empty one."""
    value = described.get(key)
    return value if isinstance(value, dict) else {}
