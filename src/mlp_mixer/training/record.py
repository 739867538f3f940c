"""What a run's config.json says, read as if a stranger had written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json

_NAME = "config.json"
_ADVICE = "give the folder of a training run"
# Group and field of the configuration -> the types that others rely on.
_TYPES: dict[tuple[str, str], tuple[type, ...]] = {
    ("data", "source"): (str,),
    ("model", "name"): (str, type(None)),
    ("model", "init"): (str, type(None)),
    ("train", "epochs"): (int, float, type(None)),
}


def read_record(folder: Path) -> dict[str, Any]:
    """Read the config.json in the folder of a run.

    Args:
        folder: Of the run.

    Returns:
        "config", the groups of the configuration as they were written, by an older
        version perhaps; and "environment", the facts about the machine.

    Raises:
        UserError: There is no such file, or it is not the config.json of a run.
    """
    path = folder / _NAME
    record = read_json(path, "configuration of the run", _ADVICE)
    config = record.get("config") if isinstance(record, dict) else None
    wrong = [] if isinstance(config, dict) else ["config"]
    groups = config if isinstance(config, dict) else {}
    for (group, field), kinds in _TYPES.items():
        fields = groups.get(group)
        # A field may have its default; the source of the images has none.
        default = None if type(None) in kinds else 0
        if not isinstance(fields, dict) or not isinstance(
            fields.get(field, default), kinds
        ):
            wrong.append(f"{group}.{field}")
    if not isinstance(groups.get("recipe"), (str, type(None))):
        wrong.append("recipe")
    if wrong:
        raise UserError(
            f"cannot read the configuration of the run {str(path)!r}: {wrong[0]} is "
            f"missing or of another type; {_ADVICE}"
        )
    environment = record.get("environment")
    if not isinstance(environment, dict):
        environment = {}
    return {**record, "environment": environment}
