"""Find the fastest way within a tolerance, by trying: on the user's own images.

Every way is compared with the plain module, and its time is taken on this machine.
Which way is the fastest differs between processors, networks and batches; whether it
may be taken is for the user to say, and for these images to show.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..models.isotropic import IsotropicMlp
from .engines import TOLERANCE, EngineFn, exact
from .ways import Way, build, is_exact, own_precision, ways, why_not_way

# Images of the user on which ways that are not exact are compared with the module. Of
# exact ones two tell enough, which are compared on noise before.
COMPARED = 32
_COMPARED_IF_EXACT = 2

# A way that is not exact must be so many times as fast as the best that is.
_LEAST_GAIN = 1.1
# The trial: each way is measured at least and at most so many times, and until so many
# seconds have passed.
_LEAST_ROUNDS = 3
_MOST_ROUNDS = 12
_TRIAL_SECONDS = 2.0
# The most images in a call of the trial on a CPU; a GPU needs all to be busy.
_TRIAL_IMAGES = 8

First = tuple[Tensor, Tensor]
"""Images of the user (B, C, H, W), and the plain module's logits in fp32 (B, K)."""


@dataclass(frozen=True)
class Chosen:
    """A way that was chosen, and what it was chosen for.

    Attributes:
        way: The engine and its precision.
        run: Its call.
        difference: The largest one of a logit from the plain module, in units of the
            largest logit if that is above 1.
        compared: On how many images that was measured.
        speed: How many times as fast as the best exact way, where both were timed.
        notes: Why others were left out, one sentence each.
    """

    way: Way
    run: EngineFn
    difference: float = 0.0
    compared: int = 0
    speed: float | None = None
    notes: tuple[str, ...] = ()


def fastest(
    model: IsotropicMlp,
    images: Tensor,
    name: str = "auto",
    *,
    tolerance: float = TOLERANCE,
    precision: str = "auto",
    first: First | None = None,
) -> Chosen:
    """Find the way that answers these images soonest on this machine, by trying.

    Ways that cannot run the model are left out, and so are those that are further from
    the plain module than the tolerance on the first images, or name other classes.

    Args:
        model: The network; it is set to evaluation mode.
        images: A batch as it will come, at least one.
        name: As for `engine`, like the next two.
        tolerance: As there.
        precision: As there.
        first: Images to compare on, and the module's answers; the batch by default.

    Returns:
        The way and its call; the plain module, if nothing else can run.
    """
    candidates = list(ways(model, name, precision, tolerance))
    if first is None:
        all_exact = all(is_exact(model, way) for way in candidates)
        some = images[: _COMPARED_IF_EXACT if all_exact else COMPARED]
        first = (some, exact(model.eval())(some))
    asked = precision == "bf16"
    found: dict[Way, Chosen] = {}
    notes = []
    for way in candidates:
        chosen = _admitted(model, way, first, tolerance, asked)
        if isinstance(chosen, Chosen):
            found[way] = chosen
        elif not is_exact(model, way):
            notes.append(f"not {way}: {chosen}")
    if not found:
        return Chosen(Way("torch", own_precision(model)), exact(model))
    seconds = dict.fromkeys(found, 0.0)
    if len(found) > 1:
        runs = {way: chosen.run for way, chosen in found.items()}
        trial = images if images.is_cuda else images[:_TRIAL_IMAGES]
        seconds = _medians(runs, trial)
    return _best(own_precision(model), found, seconds, notes)


def _best(
    own: str, found: dict[Way, Chosen], seconds: dict[Way, float], notes: list[str]
) -> Chosen:
    """Return the way of the least time, or a better one that hardly takes longer.

    A tenth of the time is too little to go without exact answers, or to be twice as far
    from them.

    Args:
        own: The precision of the weights.
        found: What may be taken.
        seconds: The time of each.
        notes: Why others were left out; more are added.
    """
    best = min(found, key=seconds.__getitem__)
    exact_ways = [way for way in found if way.precision == own]
    speed = None
    if exact_ways and len(found) > 1:
        usual = min(exact_ways, key=seconds.__getitem__)
        rounded = [way for way in found if way.precision != own]
        for way in rounded:
            gain = seconds[usual] / seconds[way]
            if gain < _LEAST_GAIN:
                notes.append(f"not {way}: {gain:.2f} times as fast as {usual}")
        is_worth_it = seconds[best] * _LEAST_GAIN <= seconds[usual]
        best = _closer(best, found, seconds) if is_worth_it else usual
        speed = seconds[usual] / seconds[best]
    chosen = found[best]
    return Chosen(
        best, chosen.run, chosen.difference, chosen.compared, speed, tuple(notes)
    )


def _closer(best: Way, found: dict[Way, Chosen], seconds: dict[Way, float]) -> Way:
    """Return a way about as fast that is twice as close to the module, if there is one."""
    closer = [
        way
        for way, chosen in found.items()
        if seconds[way] <= _LEAST_GAIN * seconds[best]
        and 2 * chosen.difference <= found[best].difference
    ]
    return min(closer, key=lambda way: found[way].difference, default=best)


def _admitted(
    model: IsotropicMlp, way: Way, first: First, tolerance: float, asked: bool
) -> Chosen | str:
    """Build a way and compare it; return why it is left out, if it is."""
    if reason := why_not_way(model, way, asked=asked):
        return reason
    some, expected = first
    if is_exact(model, way):
        few = some[:_COMPARED_IF_EXACT]
        with contextlib.suppress(UserError):
            run = build(model, way)
            difference, _ = compare(run(few), expected[: len(few)])
            if way.precision != "fp32" or difference <= TOLERANCE:
                return Chosen(way, run, difference, len(few))
        return "it cannot run here"
    # Whatever a compiler or another runtime raises is a reason to go without it.
    try:
        run = build(model, way)
        difference, changed = compare(run(some), expected)
    except Exception as error:
        last_line = str(error).strip().rpartition("\n")[2][:100]
        return f"it fails here ({type(error).__name__} {last_line})"
    if not asked:
        # "not <=" and not ">": a NaN must not pass.
        if not difference <= tolerance:
            return f"its logits differ by {difference:.2g} of the largest"
        if changed:
            return f"{changed} of {len(some)} classes differ"
    return Chosen(way, run, difference, len(some))


def compare(found: Tensor, expected: Tensor) -> tuple[float, int]:
    """Return how far logits are from others, and how many classes are not the same.

    Args:
        found: (B, K), at least one image.
        expected: (B, K).

    Returns:
        The largest difference, in units of the largest expected logit if that is above
        1; the number of images whose best class is another.
    """
    if not expected.numel():
        return 0.0, 0
    scale = max(1.0, expected.abs().max().item())
    difference = (found - expected).abs().max().item() / scale
    changed = int((found.argmax(1) != expected.argmax(1)).sum())
    return difference, changed


def _medians(runs: dict[Way, EngineFn], images: Tensor) -> dict[Way, float]:
    """Return the median seconds of each call, measured in turns."""
    times: dict[Way, list[float]] = {way: [] for way in runs}
    until = time.perf_counter() + _TRIAL_SECONDS
    for number in range(_MOST_ROUNDS):
        # In turns, so that what else the machine does slows all of them alike.
        for way, run in runs.items():
            # Not measured: threads of the engine before it may still spin, and its own
            # data are not in the caches.
            _wait(run(images))
            started = time.perf_counter()
            _wait(run(images))
            times[way].append(time.perf_counter() - started)
        if number + 1 >= _LEAST_ROUNDS and time.perf_counter() > until:
            break
    return {way: statistics.median(seconds) for way, seconds in times.items()}


def _wait(answer: Tensor) -> None:
    if answer.is_cuda:
        torch.cuda.synchronize(answer.device)
