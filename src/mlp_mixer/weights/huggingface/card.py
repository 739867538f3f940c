"""The page of a model on the Hugging Face hub: what is recorded and what was measured,
nothing else.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..catalog import CATALOG
from ..checkpoint import StoredWeights
from ..lineages.timm_names import EntryPoint

_LICENCES = re.compile(
    r"apache-2\.0|mit|unknown|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[34]\.0|[al]?gpl-3\.0"
)


def model_card(
    stored: StoredWeights,
    entry: EntryPoint | None,
    obstacles: Sequence[str],
    changes: Sequence[str],
    repo_id: str,
) -> str:
    """The text of README.md for `owner/name`.

    entry, obstacles, changes: timm's name, why timm computes something else with it,
        and before the network.
    """
    import jinja2

    origin = stored.provenance
    sides = stored.preprocess.image_size
    data, measured = (
        value if isinstance(value := origin.get(key), Mapping) else {}
        for key in ("data", "measured")
    )
    model = (
        f"{origin['model']} on {data['source']}"
        if "model" in origin and "source" in data
        else origin.get("model")
    )
    facts: dict[str, Any] = {
        "stored": stored,
        "repository": repo_id,
        "data": data,
        "measured": measured,
    }
    facts |= {"title": str(origin.get("name") or model or repo_id.rpartition("/")[2])}
    facts |= {
        "entry": entry,
        "obstacles": obstacles,
        "changes": changes,
        "known": CATALOG.get(str(origin.get("name"))),
    }
    facts |= {
        "size": sides,
        "scaled": [math.floor(side / stored.preprocess.crop_pct) for side in sides],
    }
    facts |= {"parameters": sum(tensor.numel() for tensor in stored.tensors.values())}
    facts |= {
        "dtypes": sorted(
            {
                str(tensor.dtype).removeprefix("torch.")
                for tensor in stored.tensors.values()
            }
        )
    }
    environment = jinja2.Environment(
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(
        Path(__file__).with_suffix(".md.j2").read_text(encoding="utf-8")
    )
    return f"---\n{_metadata(**facts)}\n---\n\n{template.render(facts)}"


def _metadata(
    stored: StoredWeights,
    entry: EntryPoint | None,
    obstacles: Sequence[str],
    title: str,
    **of: Any,
) -> str:
    """What the hub sorts and searches by, as YAML; an accuracy only with the images it
    was measured on.
    """
    from huggingface_hub import EvalResult, ModelCardData

    task = f"image-{'classification' if stored.config.num_classes else 'feature-extraction'}"
    library = (
        "timm" if entry and not (obstacles or entry.needs_register) else "mlp-mixer"
    )
    card = ModelCardData(
        library_name=library,
        pipeline_tag=task,
        tags=["mlp-mixer", task, "arxiv:2105.01601"],
    )
    if licence := str(stored.provenance.get("licence") or "").lower():
        card.license = licence if _LICENCES.fullmatch(licence) else "other"
        if card.license == "other":
            card.license_name = re.sub("[^a-z0-9.]+", "-", licence).strip("-")
    data = of["data"].get("source")
    split = of["measured"].get("split")
    top1 = of["measured"].get("top1")
    if data and split and isinstance(top1, float):
        result = EvalResult(
            task, str(data), str(data), "accuracy", top1, dataset_split=str(split)
        )
        card.model_name, card.eval_results = title, [result]
    return card.to_yaml()


def _plain(value: Any) -> str:
    """What a template writes, as text in one line that is no markup and may stand in a
    table.
    """
    if isinstance(value, Mapping):
        return "; ".join(
            f"{_plain(key)}: {_plain(inner)}"
            for key, inner in value.items()
            if inner is not None
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    text = (
        f"{value:.6g}"
        if isinstance(value, float)
        else ""
        if value is None
        else str(value)
    )
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
