"""Where in a file the networks are: which names belong together, before what prefix.

A training script puts its network under an attribute (`net.`, `backbone.`), a wrapper
(`module.`, `_orig_mod.`) or a key of a dict (`state_dict`), and often there are two: a
network and its average, a student and its teacher. Each is a place. Only names are
looked at; whether the tensors fit is for others to find.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...errors import UserError
from .lineage import Lineage
from .recognise import recognise
from .tables import LINEAGES, TIMM

# Segments that torch's wrappers put before or between the names of modules: compile,
# DataParallel, AveragedModel, DeepSpeed, FSDP, activation checkpointing, Opacus.
_WRAPPERS = frozenset(
    (
        "_orig_mod",
        "module",
        "_module",
        "_forward_module",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_checkpoint_wrapped_module",
        "_ddp_module",
    )
)
# What counting operations and averaging leave in every module or beside it.
_COUNTERS = frozenset(
    ("total_ops", "total_params", "n_averaged", "num_batches_tracked")
)
# An optimiser's numbers carry the names of the weights; opt/target/ are weights.
_OPTIMISER = re.compile(
    r"(?i)optim\w*|opt|opt_states?|mu|nu|exp_avg\w*|momentum(_buffer)?|grads?|gradients?"
)
_AVERAGE = re.compile(
    r"(?i)(^|_)(ema|swa|lawa|avg|averaged?|averages?|polyak|shadow|soup)(_|$)"
)
# Words that do not tell whose weights they are.
_GENERIC = re.compile(
    r"(?i)(models?|nets?|networks?|modules?|weights?|params?|parameters|state|states|"
    r"dict|online|current|last|ema|swa|lawa|avg|averaged?|averages?|polyak|shadow|soup)?"
)
# timm's other families, by the tensors of a block that Mixers lack.
_FAMILY_ANCHORS = ("blocks.{i}.linear_tokens.*", "blocks.{i}.mlp_channels.gate.proj.*")
# What stands beside a network in its own module: losses, metrics, augmentation.
_BESIDE = re.compile(
    r"(?i)(.*_)?(criteri(on|a)\w*|loss(es)?(_?(fns?|func\w*))?|metrics?|acc\w*|au(roc|c)|"
    r"f1\w*|precision|recall|conf(usion)?_?mat\w*|class_weights?|pos_weights?|mixup|"
    r"cutmix|augment\w*|transforms?|normali[sz]er?|data_preprocessor)(_?\d+|_(weights?|fns?|train|val|test|top)\w*)?"
)


@dataclass(frozen=True)
class Place:
    """Says where the tensors of one network are in a file.

    Attributes:
        prefix: What stands before their names.
        lineage: Whose names they are.
        root: Where in the file the named tensors are, such as "state_dict.".
        inside: The name without prefix and wrappers -> the name in the file.
    """

    prefix: str
    root: str
    lineage: Lineage
    inside: Mapping[str, str]

    @property
    def name(self) -> str:
        """What a person calls it, such as "state_dict.net"; empty for the whole file."""
        outer = self.root + self.prefix
        # params/ and opt/target/ belong to a lineage's way of naming.
        for own in sorted(self.lineage.prefixes, key=len, reverse=True):
            if own and outer.endswith(own):
                outer = outer.removesuffix(own)
                break
        kept = [part for part in re.split(r"[./]", outer) if part not in _WRAPPERS]
        return ".".join(part for part in kept if part)

    @property
    def words(self) -> list[str]:
        """The words of its name that tell whose weights they are."""
        words = re.split(r"[._]", self.name)
        return [word.lower() for word in words if not _GENERIC.fullmatch(word)]

    @property
    def is_average(self) -> bool:
        """Whether its name says that the weights are an average over training."""
        return any(_AVERAGE.search(part) for part in re.split(r"[./]", self.prefix))


def find_places(
    names: Iterable[str], source: str, lineage: str | None = None, root: str = ""
) -> list[Place]:
    """Find every place in a file that has the names of a known lineage.

    Args:
        names: The names of all tensors.
        source: The file, for the errors.
        lineage: Only this one.
        root: Where in the file these tensors are.

    Returns:
        The places in the order of the file; none if there is none.

    Raises:
        UserError: Two names of one place differ in their wrappers only.
    """
    names = list(names)
    anchors = [*_anchors(lineage)]
    prefixes: dict[str, None] = {}
    for name in names:
        plain = _plain(name)
        for anchor in anchors:
            match = anchor.fullmatch(plain)
            if match and not is_optimiser(match[1]):
                prefixes[_in_the_file(name, match[1])] = None
    places = []
    for prefix in prefixes:
        inside = _inside(prefix, names, prefixes, source)
        # A lineage may have a prefix of its own, of which this place has the end.
        table = _lineage_at(prefix, list(inside), source, lineage)
        places.append(Place(prefix, root, table, inside))
    return places


def belongs(name: str, roots: Collection[str], *, maybe_beside: bool) -> bool:
    """Return whether a tensor in a place is of the network itself.

    Args:
        name: Without the prefix.
        roots: Of the names of the network, as `root` gives them.
        maybe_beside: Whether it looks like no weight.
    """
    if re.split(r"[./]", name)[-1] in _COUNTERS:
        return False
    if root(name) in roots:
        return True
    return not maybe_beside and not _BESIDE.fullmatch(_first(name))


def is_optimiser(name: str) -> bool:
    """Return whether a name is of an optimiser's numbers, not of weights.

    Args:
        name: In the file, or the beginning of one.
    """
    if "opt/target/" in name:
        return False
    return any(_OPTIMISER.fullmatch(part) for part in re.split(r"[./]", name))


def _anchors(lineage: str | None) -> Iterator[re.Pattern[str]]:
    """Yield patterns of the names by which a network is found: (prefix) and the rest."""
    templates = [_FAMILY_ANCHORS] if lineage in (None, TIMM.name) else []
    chosen = [LINEAGES[lineage]] if lineage else LINEAGES.values()
    for template in (*sum(templates, ()), *{each.anchor for each in chosen}):
        pattern = re.escape(template).replace(r"\*", ".+")
        pattern = re.sub(r"\\{(i|i2|_i)\\}", r"_?\\d{0,5}", pattern)
        yield re.compile(rf"((?:.*[./])?){pattern}", re.DOTALL)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _in_the_file(name: str, plain_prefix: str) -> str:
    """Return the prefix with the wrappers that a name has before its network."""
    wanted = plain_prefix.count(".")
    parts = name.split(".")
    seen = 0
    for number, part in enumerate(parts):
        if part in _WRAPPERS:
            continue
        if seen == wanted:
            head = "".join(f"{before}." for before in parts[:number])
            # Names with slashes are one segment: their prefix ends inside it.
            return head + plain_prefix.rpartition(".")[2]
        seen += 1
    return plain_prefix


def _inside(
    prefix: str, names: Iterable[str], prefixes: Iterable[str], source: str
) -> dict[str, str]:
    """Return the names in a place and in no deeper one: without prefix -> in the file."""
    deeper = tuple(
        other for other in prefixes if other != prefix and other.startswith(prefix)
    )
    inside: dict[str, str] = {}
    for name in names:
        if not name.startswith(prefix) or (deeper and name.startswith(deeper)):
            continue
        plain = _plain(name.removeprefix(prefix))
        if plain in inside:
            wrapper = _wrapper_in(name, inside[plain])
            raise UserError(
                f"{source} holds a tensor twice, with and without {wrapper!r} in its "
                "name: keep one of them"
            )
        inside[plain] = name
    return inside


def _lineage_at(
    prefix: str, inner: list[str], source: str, lineage: str | None
) -> Lineage:
    """Return the lineage that explains most names after a prefix."""
    # timm's other families have no token MLPs to be recognised by.
    if not any(each.count_blocks(inner) for each in LINEAGES.values()):
        return TIMM
    longest = ""
    for each in LINEAGES.values():
        for own in each.prefixes:
            if prefix.endswith(own) and len(own) > len(longest):
                longest = own
    return recognise([longest + name for name in inner], source, lineage)[0]


def _wrapper_in(*names: str) -> str:
    """Return a wrapper that one of two names has."""
    for name in names:
        for part in name.split("."):
            if part in _WRAPPERS:
                return f"{part}."
    return ""


def _first(name: str) -> str:
    return re.split(r"[./]", name, maxsplit=1)[0]


def root(name: str) -> str:
    """Return the first part of a name, without the number of a block.

    Args:
        name: Without a prefix.
    """
    return re.sub(r"\d+", "#", _first(name))
