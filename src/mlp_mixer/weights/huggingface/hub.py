"""Hugging Face: a folder (and so a repository) that timm, transformers and this package
all load as it is.

`model.safetensors` carries timm's names; `config.json` names timm's architecture where
timm builds the same network, and holds our own description under the key `mlp_mixer`,
so nothing is lost on the way back to us.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch

from ..._version import __version__
from ...errors import UserError
from ...files import PathLike, make_folder, write_bytes, write_json, write_text
from ...images.preprocess import Preprocess
from ...models.families import need_mixer
from ...web import offline
from ..checkpoint import KEY, Checkpoint, StoredWeights, description
from ..lineages import translate
from ..lineages.tables import TIMM
from ..lineages.timm_names import EntryPoint, entry_point
from ..loading import load
from .card import model_card
from .folder import hub_errors, hub_folder


def from_pretrained(
    repo_id_or_folder: PathLike, *, revision: str | None = None
) -> Checkpoint:
    """Load `owner/name` from the Hugging Face hub, or a folder that `save_pretrained`
    wrote; `UserError` if it cannot.

    Mixers of timm on the hub load too, with their own preprocessing and class names.
    revision: branch, tag or commit.
    """
    if Path(repo_id_or_folder).exists():
        return load(repo_id_or_folder)
    return load(
        hub_folder(str(repo_id_or_folder).removeprefix("hf-hub:"), revision=revision)
    )


def save_pretrained(checkpoint: Checkpoint, folder: PathLike) -> Path:
    """Write `config.json`, `model.safetensors` and a model card (`README.md`) into a
    folder, and return it.

    Where timm would compute something else, no architecture is named, so that timm and
    transformers refuse the folder.
    """
    return write_folder(Path(folder), _stored(checkpoint), force=False)


def push_to_hub(
    checkpoint: Checkpoint,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Upload what `save_pretrained` writes to `owner/name` (created if needed) and
    return the commit's URL.

    token: the default is the one of `hf auth login`. private: refuse a repository that
        others can read.
    `UserError` without network, permission or token.
    """
    import huggingface_hub

    if token is not None and not re.fullmatch(
        "[!-~]+", token
    ):  # the HTTP library would quote it in its complaint
        raise UserError(
            "the token is empty or holds blanks or letters beyond ASCII; copy it again"
        )
    with hub_errors(f"upload to {repo_id!r}"), tempfile.TemporaryDirectory() as folder:
        if offline():
            raise ConnectionError
        api = huggingface_hub.HfApi(
            token=token, library_name="mlp-mixer", library_version=__version__
        )
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name!r} exists and is public, private was asked for; change it there, or choose a name"
            )
        write_folder(Path(folder), _stored(checkpoint), force=False, repo_id=name)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=message or "Upload MLP-Mixer",
        )
    return str(commit.commit_url)


def timm_obstacles(stored: StoredWeights) -> list[str]:
    """Why timm (and transformers through it) would not build this network and compute
    the same; empty if it does.
    """
    config = need_mixer(stored.config, "a folder for Hugging Face")
    reasons = translate.obstacles(config, TIMM)
    if entry_point(config) is None and config.final_norm:
        size = f"patches of {stored.config.patch_size}, {stored.config.num_blocks} blocks of {stored.config.hidden_dim}"
        reasons.append(f"timm has no entry point for {size}")
    return reasons


def write_folder(
    folder: Path,
    stored: StoredWeights,
    *,
    force: bool = True,
    repo_id: str = "OWNER/NAME",
) -> Path:
    """The three files, each whole or as it was; tensors keep their dtype, and other
    files of the folder stay.

    force: name timm's architecture where it has one, even if timm would compute
        something else with it.
    """
    make_folder(folder)
    entry = entry_point(stored.config)
    reasons = timm_obstacles(stored)
    transform, changes = timm_transform(stored.preprocess)
    described = {KEY: description(stored)}
    if entry and (force or not reasons):
        described = _timm_config(stored, entry, transform) | described
    card = model_card(
        stored, entry, reasons, changes, repo_id
    )  # nothing is written if this fails
    write_bytes(
        folder / "model.safetensors",
        safetensors.torch.save(stored.tensors, {"format": "pt"}),
    )
    write_json(folder / "config.json", described)
    write_text(folder / "README.md", card)
    return folder


def _timm_config(
    stored: StoredWeights, entry: EntryPoint, transform: dict[str, Any]
) -> dict[str, Any]:
    config = stored.config
    classes = {"num_classes": stored.config.num_classes}
    size = {
        "input_size": [config.in_channels, *config.image_size],
        "fixed_input_size": True,
    }
    pretrained = (
        size | transform | classes | {"first_conv": "stem.proj", "classifier": "head"}
    )
    timms = {
        "architecture": entry.name,
        **classes,
        "num_features": config.hidden_dim,
        "global_pool": "avg",
    }
    timms |= {"label_names": list(stored.labels)} if stored.labels else {}
    timms |= {"model_args": entry.model_args} if entry.model_args else {}
    if stored.provenance.get("head") == "sigmoid":
        timms["problem_type"] = (
            "multi_label_classification"  # then transformers' pipeline does the same
        )
    return timms | {"pretrained_cfg": pretrained}


def timm_transform(preprocess: Preprocess) -> tuple[dict[str, Any], list[str]]:
    """The nearest that timm's `pretrained_cfg` can say of a `Preprocess`, and what of
    it timm does otherwise.
    """
    fixed = preprocess.resize == "none"
    squash = preprocess.resize == "resize"
    changes = []
    if preprocess.resampler != "pillow":
        changes.append(
            f"they scale with Pillow, which smooths first, and not as {preprocess.resampler} does"
        )
    if fixed:
        changes.append("they scale images of other sizes, which are refused here")
    elif not squash and len(set(preprocess.image_size)) > 1:
        changes.append(
            "they round the longer side of the scaled image, which is cut off to whole pixels here"
        )
    words = {"interpolation": preprocess.interpolation.replace("area", "box")}
    words |= {"crop_mode": "squash" if squash else "center"}
    numbers = {
        "crop_pct": 1.0 if fixed else preprocess.crop_pct,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    return words | numbers, changes


def _stored(checkpoint: Checkpoint) -> StoredWeights:
    return StoredWeights.of(
        checkpoint.model,
        checkpoint.preprocess,
        checkpoint.labels,
        checkpoint.provenance,
    )
