"""The page of a model on the Hugging Face hub.

It says what is recorded and what was measured, nothing else.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...intervals import accuracy
from ..catalog import CATALOG
from ..checkpoint import StoredWeights
from ..lineages.timm_names import EntryPoint

_FEWEST_FOR_A_CLAIM = 100  # images, of which the interval is up to 20 points wide

# The hub accepts only licences of its list; these are the usual ones of weights.
_LICENCES = re.compile(
    r"apache-2\.0|mit|unknown|bsd-[23]-clause|cc0-1\.0"
    r"|cc-by(-nc)?(-sa|-nd)?-[34]\.0|[al]?gpl-3\.0"
)


def model_card(
    stored: StoredWeights,
    entry: EntryPoint | None,
    obstacles: Sequence[str],
    changes: Sequence[str],
    repo_id: str,
) -> str:
    """Return the text of README.md for a repository.

    Args:
        stored: The weights.
        entry: How timm builds the network, if it does.
        obstacles: Why timm computes something else with it.
        changes: What timm's preprocessing does otherwise.
        repo_id: `owner/name`.
    """
    import jinja2

    origin = stored.provenance
    data = _object(origin, "data")
    measured = _object(origin, "measured")
    title = _title(origin, data) or repo_id.rpartition("/")[2]
    preprocess = stored.preprocess
    sides = preprocess.image_size
    dtypes = {str(t.dtype).removeprefix("torch.") for t in stored.tensors.values()}
    facts: dict[str, Any] = {
        "stored": stored,
        "repository": repo_id,
        "title": title,
        "data": data,
        "measured": measured,
        "entry": entry,
        "obstacles": obstacles,
        "changes": changes,
        "accuracy": accuracy,
        "known": CATALOG.get(str(origin.get("name"))),
        "size": sides,
        "scaled": [math.floor(side / preprocess.crop_pct) for side in sides],
        "parameters": sum(tensor.numel() for tensor in stored.tensors.values()),
        "dtypes": sorted(dtypes),
    }
    environment = jinja2.Environment(
        # Every value that the template writes passes through `_plain`.
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8")
    page = environment.from_string(text).render(facts)
    metadata = _metadata(stored, entry, obstacles, title, data, measured)
    return f"---\n{metadata}\n---\n\n{page}"


def _object(origin: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the object under a key of the provenance, which is free JSON."""
    value = origin.get(key)
    return value if isinstance(value, Mapping) else {}


def _title(origin: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return the name of the weights, or their model and its training data."""
    if origin.get("name"):
        return str(origin["name"])
    if "model" in origin and "source" in data:
        return f"{origin['model']} on {data['source']}"
    return str(origin.get("model") or "")


def _metadata(
    stored: StoredWeights,
    entry: EntryPoint | None,
    obstacles: Sequence[str],
    title: str,
    data: Mapping[str, Any],
    measured: Mapping[str, Any],
) -> str:
    """Return what the hub sorts and searches by, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    kind = "classification" if stored.config.num_classes else "feature-extraction"
    task = f"image-{kind}"
    # The hub shows a button for this library: it must load the repository as it is.
    timm_loads_it = entry and not (obstacles or entry.needs_register)
    card = ModelCardData(
        library_name="timm" if timm_loads_it else "mlp-mixer",
        pipeline_tag=task,
        tags=["mlp-mixer", task, "arxiv:2105.01601"],
    )
    if licence := str(stored.provenance.get("licence") or "").lower():
        card.license = licence if _LICENCES.fullmatch(licence) else "other"
        if card.license == "other":
            card.license_name = re.sub("[^a-z0-9.]+", "-", licence).strip("-")
    # An accuracy is a claim only together with the images it was measured on, and the
    # hub shows it without their number: a few images make no claim.
    source = data.get("source")
    split = measured.get("split")
    top1 = measured.get("top1")
    n = measured.get("n")
    enough = isinstance(n, int) and n >= _FEWEST_FOR_A_CLAIM
    if source and split and isinstance(top1, float) and enough:
        name = str(source)
        result = EvalResult(
            task, name, name, "accuracy", top1, dataset_split=str(split)
        )
        card.model_name = title
        card.eval_results = [result]
    return card.to_yaml()


def _plain(value: Any) -> str:
    """Return a value as text in one line that is no markup and fits into a table."""
    if isinstance(value, Mapping):
        pairs = []
        for key, inner in value.items():
            if inner is not None:
                pairs.append(f"{_plain(key)}: {_plain(inner)}")
        return "; ".join(pairs)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    one_line = " ".join(text.split())
    return html.escape(one_line, quote=False).replace("|", "\\|")
