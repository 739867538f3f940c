"""Which of the networks in a file is loaded, and what is said about the others.

One network: that one. An average of a network and the network itself: the average, if
it fits. Anything else, such as a student and its teacher, is never chosen silently: a
person says which, by its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, listed
from ..models.base import NetworkConfig
from .formats.contents import Contents
from .lineages import timm_families, translate
from .lineages.mend import mend
from .lineages.places import Place, belongs, find_places, is_optimiser, root
from .lineages.recognise import refuse_names
from .lineages.tables import TIMM

_MOST_NAMED = 4
# The words of a place that is never preferred to another, nor another to it.
_ROLES = re.compile(r"(student|teacher|target|tutor|assistant|best)\d*")


@dataclass(frozen=True)
class Found:
    """Holds a network of a foreign file under our names.

    Attributes:
        lineage: A key of `LINEAGES`.
        family: "gmixer", "resmlp" or "gmlp"; None for a Mixer.
        config: The architecture.
        tensors: The tensors under our names and in our layouts.
        notes: What was chosen, assumed and left out, in words.
    """

    lineage: str
    family: str | None
    config: NetworkConfig
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fitting:
    """Holds a place whose tensors form a network, and that network."""

    place: Place
    network: Found


def choose_network(
    contents: Contents,
    source: str,
    *,
    key: str | None = None,
    lineage: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Found:
    """Find the networks in a file, and take the one that is meant.

    Args:
        contents: What the file holds.
        source: The file, for the errors.
        key: Where in the file the network is, such as "teacher"; None to choose by the
            rule above.
        lineage: A key of `LINEAGES`, or None to recognise it.
        image_size: (height, width) in pixels that was stated.

    Returns:
        The network.

    Raises:
        UserError: The file holds no network that we know, or several and none is
            preferred, or there is none at the key.
    """
    names = list(contents.tensors)
    places = find_places(names, source, lineage, contents.root)
    if not places:
        refuse_names(names, source, lineage)
    tried = places if key is None else _at(key, places, source)
    fitting, reasons = _fitting(tried, contents, source, image_size)
    if not fitting:
        # The first is what the file is about; the others may be heads or remnants.
        raise next(iter(reasons.values()))
    chosen, note = _preferred(fitting, source)
    notes = [note] if note else []
    for name, reason in reasons.items():
        why = " ".join(str(reason).removeprefix(f"{source} ").split())[:200]
        notes.append(f"{_quoted(name)} was passed over: {why}")
    notes += _left_out(names, chosen, places)
    network = chosen.network
    return Found(
        network.lineage,
        network.family,
        network.config,
        network.tensors,
        (*contents.notes, *notes, *network.notes),
    )


def _at(key: str, places: Sequence[Place], source: str) -> list[Place]:
    """Return the places that a key may mean: exactly, or those that begin with it."""
    wanted = ".".join(part for part in re.split(r"[./]", key) if part)
    exact = [place for place in places if wanted in (place.name, _trimmed(place))]
    inner = [place for place in places if f".{wanted}." in f".{place.name}."]
    if found := exact or inner:
        return found
    there = listed([_quoted(place.name) for place in places], _MOST_NAMED, ", ")
    raise UserError(
        f"{source} holds no network at {key[:80]!r}; there is one at {there}: give that "
        "key, or none"
    )


def _trimmed(place: Place) -> str:
    return re.sub(r"[./]+", ".", place.root + place.prefix).strip(".")


def _fitting(
    places: Iterable[Place],
    contents: Contents,
    source: str,
    image_size: tuple[int, int] | None,
) -> tuple[list[_Fitting], dict[str, UserError]]:
    """Return the places that form a network, and why the others do not."""
    fitting = []
    reasons: dict[str, UserError] = {}
    for place in places:
        try:
            network = _network(place, contents, source, image_size)
        except UserError as error:
            reasons[place.name] = error
        else:
            fitting.append(_Fitting(place, network))
    return fitting, reasons


def _network(
    place: Place,
    contents: Contents,
    source: str,
    image_size: tuple[int, int] | None,
) -> Found:
    """Bring the tensors of a place under our names."""
    roots = {root(entry.theirs) for entry in place.lineage.table(1)}
    given = {}
    for name, in_the_file in place.inside.items():
        tensor = contents.tensors[in_the_file]
        # Counters of metrics are whole numbers, which no weight is.
        is_counter = not tensor.dtype.is_floating_point and tensor.numel() <= 1
        if belongs(name, roots, maybe_beside=is_counter):
            given[name] = tensor
    _check_others(place, contents, source)
    tensors, pruned = mend(given, source)
    notes = [f"{pruned} tensors multiplied by the masks of pruning"] if pruned else []
    if place.lineage is TIMM and (family := timm_families.family_of(tensors)):
        # A gMixer has all the names of a Mixer, and would be refused as a misshapen one.
        config, ours = timm_families.to_ours(tensors, family, source, image_size)
        notes += timm_families.guesses(config, family)
        return Found(TIMM.name, family, config, ours, tuple(notes))
    prefix = place.prefix
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    mixer, ours = translate.to_ours(named, place.lineage, prefix, source, image_size)
    if image_size is None:
        notes += translate.guesses(tensors, place.lineage, mixer)
    return Found(place.lineage.name, None, mixer, ours, tuple(notes))


def _check_others(place: Place, contents: Contents, source: str) -> None:
    """Refuse a network of which a tensor is something else, such as a NumPy array."""
    names = {entry.theirs for entry in place.lineage.table(len(place.inside) // 4)}
    for name, kind in contents.others.items():
        if name.removeprefix(place.prefix) in names:
            raise UserError(
                f"{source} holds {kind} under the key {name[:80]!r}, expected only "
                "tensors by name"
            )


def _preferred(fitting: Sequence[_Fitting], source: str) -> tuple[_Fitting, str]:
    """Return the network that is meant, and a note about it; ask where it is not clear."""
    different = _without_copies(fitting)
    chosen = different[0]
    name = chosen.place.name
    if len(different) == 1:
        return chosen, f"weights taken from {name}" if name else ""
    for each in different:
        others = [other for other in different if other is not each]
        if all(_is_average_of(each, other) for other in others):
            of = listed([_quoted(other.place.name) for other in others], 2, ", ")
            note = f"weights taken from {each.place.name}, an average of those in {of}"
            return each, note
    there = [_quoted(each.place.name) for each in different]
    choice = different[-1].place.name
    raise UserError(
        f"{source} holds several networks, in {listed(there, 8, ' and ')}; choose one "
        "with --key NAME (key=NAME; in a configuration model.key=NAME, of a teacher "
        f"distill.key=NAME), such as {choice}"
    )


def _without_copies(fitting: Sequence[_Fitting]) -> list[_Fitting]:
    """Return the networks that differ: a file may hold the same weights twice."""
    different: list[_Fitting] = []
    for each in fitting:
        if not any(_same(each.network, other.network) for other in different):
            different.append(each)
    return different


def _same(one: Found, other: Found) -> bool:
    if one.config != other.config:
        return False
    pairs = ((t, other.tensors[name]) for name, t in one.tensors.items())
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _is_average_of(one: _Fitting, other: _Fitting) -> bool:
    """Return whether the first is the average of the second over its training."""
    if one.network.config != other.network.config:
        return False
    if "current_model_state" in other.place.name:
        # Where Lightning's WeightAveraging keeps the weights of the last step.
        return "current_model_state" not in one.place.name
    if not one.place.is_average or other.place.is_average:
        return False
    if any(_ROLES.fullmatch(word) for word in other.place.words):
        return one.place.words == other.place.words
    return one.place.words in ([], other.place.words)


def _left_out(
    names: Iterable[str], chosen: _Fitting, places: Sequence[Place]
) -> list[str]:
    """Say which tensors beside the networks of a file were left out."""
    network = chosen.network
    place = chosen.place
    table = place.lineage.table(network.config.num_blocks)
    used = {entry.theirs for entry in table} | set(network.tensors)
    elsewhere = tuple(each.prefix for each in places if each is not place)
    inside: Mapping[str, str] = {there: name for name, there in place.inside.items()}
    beside = []
    for name in names:
        if name in inside:
            plain = inside[name].removesuffix("_mask").removesuffix("_orig")
            if plain in used:
                continue
        elif (
            elsewhere
            and name.startswith(elsewhere)
            and not place.prefix.startswith(elsewhere)
        ):
            continue
        if not is_optimiser(name):
            beside.append(name)
    if not beside:
        return []
    count = "1 tensor" if len(beside) == 1 else f"{len(beside)} tensors"
    return [f"{count} beside left out: {listed(beside, _MOST_NAMED, ', ')}"]


def _quoted(name: str) -> str:
    return repr(name) if name else "the file itself"
