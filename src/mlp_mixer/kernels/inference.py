"""Choose how a network computes in inference on a GPU: by a check there, and by time.

There are three ways: the plain module, the fused token mixing, and the layout with the
tokens outermost. Which of them is the fastest depends on the GPU, the network and the
libraries, and none but the first may be trusted on a machine that nobody has tried. So
a network of one block runs in each way, on the device itself.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.as_built import plain_state
from ..models.families import build_network
from ..models.isotropic import IsotropicMlp
from .network import fuse, why_not
from .tokens_first import TokensFirst, why_not_tokens_first

Way = Callable[[IsotropicMlp], nn.Module]

# Another way must save so much of the plain module's time to be taken.
_LEAST_GAIN = 0.02
_ROUNDS = 5


def for_inference(
    model: IsotropicMlp, batch: int = 64
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a network that computes as fast as it can here, and what was found.

    On other devices than CUDA that is the network itself.

    Args:
        model: The network, on its device, in evaluation mode and in the dtype of its
            images.
        batch: How many images to take the time of.

    Returns:
        A module from images to logits, which may share the model's weights and may not
        see later changes of them; and a note for each way that was tried.
    """
    if model.stem.proj.weight.device.type != "cuda":
        return model, ()
    return choose(model, batch)


def choose(model: IsotropicMlp, batch: int) -> tuple[nn.Module, tuple[str, ...]]:
    """Choose among the ways that `model` can compute in, on any device.

    Args:
        model: As for `for_inference`.
        batch: As for `for_inference`.

    Returns:
        As `for_inference`.
    """
    ways = _ways(model)
    if not ways:
        return model, ()
    notes = []
    seconds: dict[str, float] = {}
    with torch.inference_mode():
        try:
            small = _one_block(model)
        except UserError as changed:
            # Somebody has put other modules into it: only those know what to compute.
            return model, (str(changed),)
        exact = copy.deepcopy(small).double()
        images = _images(small, batch)
        plain = _seconds(small, images)
        for name, way in ways.items():
            # Whatever a compiler or a driver raises is a reason to stay plain.
            try:
                other = way(small)
                reason = _disagrees(other, small, exact)
                if reason is None:
                    seconds[name] = _seconds(other, images)
            except Exception as error:
                first_line = str(error).strip().partition("\n")[0][:100]
                reason = f"it fails here: {type(error).__name__} {first_line}"
            speed = f"{plain / seconds[name]:.2f}" if name in seconds else ""
            notes.append(f"{name}: {reason or f'{speed} times as fast as plain'}")
    best = min(seconds, key=seconds.__getitem__, default="")
    if best and seconds[best] < (1 - _LEAST_GAIN) * plain:
        return ways[best](model), tuple(notes)
    return model, tuple(notes)


def _ways(model: IsotropicMlp) -> dict[str, Way]:
    """Return the ways besides the plain one that can be tried."""
    weight = model.stem.proj.weight
    ways: dict[str, Way] = {}
    # In float32 fused blocks compute plainly.
    half = weight.dtype in (torch.float16, torch.bfloat16)
    if half and why_not(model, weight.device) is None:
        ways["fused"] = fuse
    if why_not_tokens_first(model) is None:
        ways["tokens first"] = TokensFirst
    return ways


def _one_block(model: IsotropicMlp) -> IsotropicMlp:
    """Return a network of the first block, without a head, with disturbed weights."""
    config, tensors = plain_state(model)
    one = dataclasses.replace(config, num_blocks=1, num_classes=0)
    with torch.device("meta"):
        small = build_network(one)
    device = model.stem.proj.weight.device
    generator = torch.Generator(device).manual_seed(0)
    own = {}
    for name in small.state_dict():
        tensor = tensors[name]
        # Behind a zero (a fresh bias, for one) an error could hide.
        noise = torch.randn(tensor.shape, generator=generator, device=device)
        own[name] = (tensor + 0.1 * noise).to(tensor.dtype)
    small.load_state_dict(own, assign=True)
    return small.eval()


def _images(model: IsotropicMlp, batch: int) -> Tensor:
    """Return noise of the size, the dtype and on the device of a network."""
    weight = model.stem.proj.weight
    generator = torch.Generator(weight.device).manual_seed(1)
    size = (batch, model.config.in_channels, *model.config.image_size)
    noise = torch.randn(size, generator=generator, device=weight.device)
    return noise.to(weight.dtype)


def _disagrees(
    other: nn.Module, plain: IsotropicMlp, exact: IsotropicMlp
) -> str | None:
    """Say if one way is further from float64 than twice the plain module, and rounding.

    Compared are the tokens after the last norm, which hold every error.
    """
    images = _images(plain, 2)
    truth = exact.forward_features(images.double())
    found = other.forward_features(images)  # type: ignore[operator]
    if isinstance(other, TokensFirst):
        found = found.transpose(0, 1)
    our_error = _relative_error(found, truth)
    plain_error = _relative_error(plain.forward_features(images), truth)
    rounding = torch.finfo(images.dtype).eps
    # "not <=" and not ">": a NaN must not pass.
    if our_error <= 2 * plain_error + rounding:
        return None
    return f"it is off by {our_error:.1e} here, the plain module by {plain_error:.1e}"


def _relative_error(tensor: Tensor, truth: Tensor) -> float:
    return float((tensor.double() - truth).norm() / truth.norm())


def _seconds(model: nn.Module, images: Tensor) -> float:
    """Return the median seconds of a pass over the images."""
    times = []
    for _ in range(_ROUNDS):
        # Not measured: libraries choose their kernels.
        model(images)
        _synchronize(images)
        start = time.perf_counter()
        model(images)
        _synchronize(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronize(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
