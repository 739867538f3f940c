"""Whether a network is still what its configuration builds.

A network is a Python object, and people change it: they wrap it, put another head on
it, prune it. A configuration that is written beside such a network would build another
one. So whatever counts a network or writes it down believes the modules, and asks here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError, listed
from .base import NetworkConfig
from .families import build_network
from .isotropic import IsotropicMlp
from .layers import DropPath

# What wrappers call the module inside: torch.compile; DataParallel, DDP, AveragedModel
# and DeepSpeed; Opacus; Lightning; activation checkpointing; FSDP.
_INSIDE = (
    "_orig_mod",
    "module",
    "_module",
    "_forward_module",
    "_checkpoint_wrapped_module",
    "_fsdp_wrapped_module",
)
# Counters that thop leaves in every module; they compute nothing.
_COUNTERS = ("total_ops", "total_params")
# Layers that do nothing once a network is trained.
_ONLY_IN_TRAINING = (nn.Dropout, DropPath)
_PASSES = ("forward", "forward_features", "forward_tokens", "forward_head")
_MOST_SHOWN = 3

# What people do to networks: the tensors that it leaves, what was done, and the call
# that takes it back.
_CHANGES = (
    (
        r"\b(lora_|base_layer\.)",
        "holds adapters such as LoRA's",
        "merge them: model = model.merge_and_unload()",
    ),
    (
        r"_mask$",
        "is pruned",
        "make that permanent: torch.nn.utils.prune.remove(layer, 'weight')",
    ),
    (
        r"\bparametrizations\.",
        "has parametrised weights",
        "make them plain: "
        "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
    ),
    (
        r"\bweight_g$",
        "has normalised weights",
        "make them plain: torch.nn.utils.remove_weight_norm(layer)",
    ),
    (
        r"\bweight_u$",
        "has normalised weights",
        "make them plain: torch.nn.utils.remove_spectral_norm(layer)",
    ),
)


def unwrapped(model: nn.Module) -> IsotropicMlp:
    """Return the network inside wrappers: torch.compile, DataParallel, an average, ...

    Args:
        model: A network of this package, perhaps wrapped.

    Raises:
        UserError: It is something else.
    """
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, IsotropicMlp):
        inside = [name for name in _INSIDE if name in inner._modules]
        if not inside:
            break
        inner = getattr(inner, inside[0])
    if isinstance(inner, IsotropicMlp):
        return inner
    raise UserError(_not_ours(model))


def plain_state(model: nn.Module) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """Return a network's configuration and tensors, as they are now.

    The configuration builds exactly this network. Another number of classes is read off
    the head.

    Args:
        model: A network of this package, perhaps wrapped, on any device.

    Returns:
        The configuration; the tensors by the names of the plain network.

    Raises:
        UserError: No configuration builds this network; the error says what was changed,
            and the call that helps.
    """
    network = unwrapped(model)
    modules = _modules(network)
    tensors = {}
    for name, tensor in network.state_dict().items():
        if name.rpartition(".")[2] not in _COUNTERS:
            tensors[_plain(name)] = tensor
    # First what has a name: its sentence says more than a list of tensors.
    if known := _known_change(tensors):
        raise UserError(known)
    for name, module in modules.items():
        if "quantized" in type(module).__module__:
            raise UserError(_quantised(name, type(module).__name__))
    config = _with_its_head(network.config, modules.get("head"))
    with torch.device("meta"):
        built = build_network(config)
    problems = [*_changed_modules(modules, dict(built.named_modules()))]
    if not problems:
        problems = [*_changed_tensors(tensors, built.state_dict())]
    if problems:
        raise UserError(
            "this network is not what its configuration builds, and would load as "
            f"another one: {listed(problems, _MOST_SHOWN)}; {_advice(problems)}"
        )
    _check_tensors(tensors)
    return config, tensors


def plain_network(
    model: nn.Module, device: torch.device | str | None = None
) -> IsotropicMlp:
    """Return a network of the same weights to compute with, in evaluation mode.

    It shares the memory of its tensors with the model where the device is the same. The
    model itself keeps its mode, its device and its wrappers.

    Args:
        model: As for `plain_state`.
        device: Where to compute; by default where the model is.

    Raises:
        UserError: As for `plain_state`.
    """
    config, tensors = plain_state(model)
    # On the meta device nothing is initialised only to be replaced.
    with torch.device("meta"):
        network = build_network(config)
    if device is not None:
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def network_to_compute(
    model: IsotropicMlp, device: torch.device | str | None = None
) -> IsotropicMlp:
    """Return `plain_network` of a network of ours; another's itself, put on the device.

    Args:
        model: The network; whatever maps images (B, C, H, W) to logits (B, K) and has
            `num_classes` can stand for it.
        device: Where to compute; by default where the model is.

    Raises:
        UserError: As for `plain_state`.
    """
    if any(isinstance(module, IsotropicMlp) for module in model.modules()):
        return plain_network(model, device)
    return model if device is None else model.to(device)


def _not_ours(model: object) -> str:
    """Say why something is no network of ours, and which part of it is one."""
    refused = f"cannot use a {type(model).__name__} as a network"
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if isinstance(module, IsotropicMlp):
                # A wrapper of adapters says more by what it did.
                known = _known_change(model.state_dict())
                return known or f"{refused}: give its part {name!r} instead"
    return f"{refused}: expected one of this package (`create_model`, `load`)"


def _plain(name: str) -> str:
    """Return the name of a module or tensor without the wrappers around it."""
    return ".".join(part for part in name.split(".") if part not in _INSIDE)


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by their plain names; of a wrapper what is inside."""
    # What is inside comes after its wrapper, under the same plain name.
    found = network.named_modules(remove_duplicate=False)
    return {_plain(name): module for name, module in found}


def _with_its_head(config: NetworkConfig, head: nn.Module | None) -> NetworkConfig:
    """Return the configuration with the classes that a plain head has."""
    if type(head) is nn.Linear:
        return dataclasses.replace(config, num_classes=head.out_features)
    if type(head) is nn.Identity:
        return dataclasses.replace(config, num_classes=0)
    return config


def _known_change(names: Iterable[str]) -> str | None:
    """Return what was done to a network with such tensors, and what takes it back."""
    for name in names:
        for pattern, what, advice in _CHANGES:
            if re.search(pattern, name):
                return f"this network {what} ({name}); {advice}"
    return None


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no plain numbers, or one in two places."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in tensors.items():
        if type(tensor).__name__ == "DTensor":
            raise UserError(
                f"{name} is spread over several processes; gather the weights first: "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with "
                "full_state_dict=True"
            )
        if tensor.is_quantized or not tensor.is_floating_point():
            raise UserError(_quantised(name, str(tensor.dtype)))
        other = first.setdefault((tensor.data_ptr(), tensor.shape), name)
        if other != name and not tensor.is_meta:
            raise UserError(
                f"this network has one tensor as {other} and as {name}, and would load "
                "with two; give each its own, by copy.deepcopy of the module"
            )


def _quantised(name: str, kind: str) -> str:
    return (
        f"this network is quantised ({name} is {kind}); use the one that it was made "
        "from, or write int8 by `export(..., int8=True)`"
    )


def _changed_modules(
    found: Mapping[str, nn.Module], built: Mapping[str, nn.Module]
) -> Iterator[str]:
    """Yield what differs between the modules that are there and those expected."""
    for name, expected in built.items():
        if name not in found:
            yield f"it has no {name}"
            continue
        if isinstance(expected, _ONLY_IN_TRAINING) and isinstance(
            found[name], (*_ONLY_IN_TRAINING, nn.Identity)
        ):
            continue
        if not _computes_alike(found[name], expected):
            came = _shown(found[name])
            yield f"{name or 'it'} is {came}, expected {_shown(expected)}"
    # Below something else all names differ: one sentence is enough.
    for name in found:
        if name not in built and name.rpartition(".")[0] in built:
            yield f"{name} is new"


def _computes_alike(module: nn.Module, expected: nn.Module) -> bool:
    """Whether a module does with its tensors what the expected one does."""
    kind = type(module)
    if not isinstance(module, type(expected)):
        return False
    # The fused blocks of kernels/ compute the same in another way.
    ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    inherited = all(
        getattr(kind, name, None) is getattr(type(expected), name, None)
        for name in _PASSES
    )
    if not (ours or inherited):
        return False
    # Epsilons, strides and the form of a GELU.
    return module.extra_repr() == expected.extra_repr()


def _shown(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _changed_tensors(
    found: Mapping[str, Tensor], built: Mapping[str, Tensor]
) -> Iterator[str]:
    """Yield what differs between the tensors that are there and those expected."""
    for name, expected in built.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name].shape != expected.shape:
            came = tuple(found[name].shape)
            yield f"{name} is {came}, expected {tuple(expected.shape)}"
    for name in found:
        if name not in built:
            yield f"{name} is new"


def _advice(problems: list[str]) -> str:
    """Return the call that helps, by what was changed first."""
    first = problems[0]
    if "head" in first:
        return (
            "give it a plain head by model.reset_classifier(num_classes), and train "
            "that, or fill it: model.head.load_state_dict(...)"
        )
    if "blocks" in first and "has no" in first:
        return (
            "make a network with fewer blocks (create_model(..., num_blocks=...)), and "
            "fill it by load_state_dict"
        )
    if first.endswith("is new"):
        return "take it away (del), or register a buffer with persistent=False"
    return "put back what was there, or keep its state_dict by torch.save"
