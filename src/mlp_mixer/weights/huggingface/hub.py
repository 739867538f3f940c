"""Hugging Face: a folder, and so a repository, that other libraries load as it is.

timm, transformers and this package read it. `model.safetensors` carries timm's names.
`config.json` names timm's architecture where timm builds the same network, and holds
our own description under the key `mlp_mixer`, so nothing is lost on the way back to us.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...errors import UserError
from ...files import PathLike, make_folder, write_bytes, write_json, write_text
from ...models.families import need_mixer
from ...web import offline
from ..checkpoint import KEY, Checkpoint, StoredWeights, description
from ..lineages import translate
from ..lineages.pretrained_cfg import write_transform
from ..lineages.tables import TIMM
from ..lineages.timm_names import EntryPoint, entry_point
from ..loading import load
from ..seal import sealed
from .card import model_card
from .folder import hub_errors, hub_folder


def from_pretrained(
    repo_id_or_folder: PathLike, *, revision: str | None = None
) -> Checkpoint:
    """Load a repository of the Hugging Face hub, or a folder of that kind.

    Mixers of timm on the hub load too, with their own preprocessing and class names.

    Args:
        repo_id_or_folder: `owner/name`, or a folder that `save_pretrained` wrote.
        revision: Branch, tag or commit of the repository.

    Returns:
        The model in evaluation mode with its preprocessing and class names.

    Raises:
        UserError: It cannot be downloaded or loaded.
    """
    # Unlike that of Path it does not raise for names that no file can have.
    if os.path.exists(repo_id_or_folder):  # noqa: PTH110
        return load(repo_id_or_folder)
    repository = str(repo_id_or_folder).removeprefix("hf-hub:")
    return load(hub_folder(repository, revision=revision))


def save_pretrained(checkpoint: Checkpoint, folder: PathLike) -> Path:
    """Write `config.json`, `model.safetensors` and a model card into a folder.

    Where timm would compute something else, no architecture is named, so that timm and
    transformers refuse the folder.

    Args:
        checkpoint: A Mixer with its preprocessing, class names and provenance.
        folder: Where to write; it is created if needed, and its other files stay.

    Returns:
        The folder.

    Raises:
        UserError: It is no Mixer, the labels do not fit it, or the disk refuses.
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
    """Upload what `save_pretrained` writes to the Hugging Face hub.

    Args:
        checkpoint: A Mixer with its preprocessing, class names and provenance.
        repo_id: `owner/name`; the repository is created if needed.
        private: Refuse a repository that others can read.
        token: Of the hub; the default is the one of `hf auth login`.
        message: Of the commit.

    Returns:
        The commit's URL.

    Raises:
        UserError: There is no network, permission or token, or the checkpoint cannot
            be written.
    """
    import huggingface_hub

    # Checked here, because the HTTP library quotes a malformed token in its complaint.
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise UserError(
            "the token is empty or holds blanks or letters beyond ASCII; copy it again"
        )
    # The library has let other letters pass, which the hub then refuses.
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", repo_id, re.ASCII):
        raise UserError(
            f"cannot upload to {repo_id!r}: that is no name of a repository, such as "
            "'owner/name'"
        )
    with hub_errors(f"upload to {repo_id!r}"), tempfile.TemporaryDirectory() as folder:
        if offline():
            raise ConnectionError
        api = huggingface_hub.HfApi(
            token=token, library_name="mlp-mixer", library_version=__version__
        )
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # exist_ok says nothing about a repository that was public before.
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name!r} exists and is public, private was asked for; change it "
                "there, or choose a name"
            )
        write_folder(Path(folder), _stored(checkpoint), force=False, repo_id=name)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=message or "Upload MLP-Mixer",
        )
    return str(commit.commit_url)


def timm_obstacles(stored: StoredWeights) -> list[str]:
    """List why timm, and transformers through it, would not compute the same.

    Args:
        stored: The weights of a Mixer.

    Returns:
        A phrase for each reason; empty if timm builds the same network.

    Raises:
        UserError: It is no Mixer.
    """
    config = need_mixer(stored.config, "a folder for Hugging Face")
    reasons = translate.obstacles(config, TIMM)
    # A missing final norm is among the reasons already; no entry point has that.
    if entry_point(config) is None and config.final_norm:
        size = (
            f"patches of {config.patch_size}, {config.num_blocks} blocks of "
            f"{config.hidden_dim}"
        )
        reasons.append(f"timm has no entry point for {size}")
    return reasons


def write_folder(
    folder: Path,
    stored: StoredWeights,
    *,
    force: bool = True,
    repo_id: str = "OWNER/NAME",
) -> Path:
    """Write the three files of a folder for Hugging Face.

    Each of them is written completely or left as it was; other files of the folder
    stay.

    Args:
        folder: Where to write; it is created if needed.
        stored: The weights of a Mixer; the tensors keep their dtype.
        force: Name timm's architecture where it has one, even if timm would compute
            something else with it.
        repo_id: What the examples of the model card load.

    Returns:
        The folder.

    Raises:
        UserError: It is no Mixer, the labels do not fit it, or the disk refuses.
    """
    entry = entry_point(stored.config)
    reasons = timm_obstacles(stored)
    transform, changes = write_transform(stored.preprocess)
    described = {KEY: description(stored)}
    if entry and (force or not reasons):
        described = _timm_config(stored, entry, transform) | described
    # The card is made first: if that fails, nothing is written.
    card = model_card(stored, entry, reasons, changes, repo_id)
    weights = sealed(stored.tensors, {"format": "pt"})
    make_folder(folder)
    write_bytes(folder / "model.safetensors", weights)
    write_json(folder / "config.json", described)
    write_text(folder / "README.md", card)
    return folder


def _timm_config(
    stored: StoredWeights, entry: EntryPoint, transform: dict[str, Any]
) -> dict[str, Any]:
    """Return the `config.json` that timm itself would write."""
    config = stored.config
    described: dict[str, Any] = {
        "architecture": entry.name,
        "num_classes": config.num_classes,
        "num_features": config.hidden_dim,
        "global_pool": "avg",
    }
    if stored.labels:
        described["label_names"] = list(stored.labels)
    if entry.model_args:
        described["model_args"] = entry.model_args
    if config.num_classes == 1 or stored.provenance.get("head") == "sigmoid":
        # With this, transformers' pipeline takes a sigmoid of every score, too.
        described["problem_type"] = "multi_label_classification"
    described["pretrained_cfg"] = {
        "input_size": [config.in_channels, *config.image_size],
        "fixed_input_size": True,
        **transform,
        "num_classes": config.num_classes,
        "first_conv": "stem.proj",
        "classifier": "head",
    }
    return described


def _stored(checkpoint: Checkpoint) -> StoredWeights:
    return StoredWeights.of(
        checkpoint.model,
        checkpoint.preprocess,
        checkpoint.labels,
        checkpoint.provenance,
    )
